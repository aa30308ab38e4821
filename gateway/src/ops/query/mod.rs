//! Statements in SQL: planned and run by the engine of the query crate, over what the caller may see.

mod snapshot;
mod system;

use std::sync::Arc;

use holdfast_core::id::{BucketName, Revision};
use holdfast_query::sql::{CreateIndex, DropIndex, Error, Kind, Query, Statement};

pub(super) use self::snapshot::shown;
pub(crate) use self::snapshot::{CallerRepository, answer};
pub(crate) use self::system::index_row;
use super::Call;
use super::index::NewIndex;
use crate::gateway::Gateway;

/// What a statement came to.
pub enum Answered {
    /// Rows, which are computed while they are read.
    Rows(Box<Query>),
    /// It was done.
    Done {
        /// The statement's kind: `CREATE INDEX`.
        statement: &'static str,
        /// The index.
        index: String,
        /// Its bucket.
        bucket: String,
        /// The revision of the commit.
        revision: Revision,
    },
}

impl Gateway {
    /// Plans a statement that asks for rows, or carries out one about indexes.
    ///
    /// # Errors
    /// What the engine refuses, and what the repository answers, by its own codes.
    ///
    /// # Cancel safety
    /// Dropping it, or the rows, ends the work.
    pub async fn sql(&self, call: &Call, statement: &str) -> Result<Answered, Error> {
        let repository = Arc::new(CallerRepository::new(self.clone(), call.clone()));
        match self.queries().prepare(repository, statement).await? {
            Statement::Query(query) => Ok(Answered::Rows(Box::new(query))),
            Statement::CreateIndex(create) => self.sql_create_index(call, create).await,
            Statement::DropIndex(drop) => self.sql_drop_index(call, drop).await,
        }
    }

    async fn sql_create_index(&self, call: &Call, create: CreateIndex) -> Result<Answered, Error> {
        let CreateIndex { name, bucket, prefix, kind, unique, if_not_exists, expressions } = create;
        let new = NewIndex {
            bucket: bucket_name(&bucket)?,
            name: name.clone(),
            prefix,
            kind,
            unique,
            expressions,
            if_not_exists,
        };
        let done = self.create_index(call, new).await.map_err(|error| Error::from(answer(&error)))?;
        Ok(Answered::Done { statement: "CREATE INDEX", index: name, bucket, revision: done.revision })
    }

    async fn sql_drop_index(&self, call: &Call, drop: DropIndex) -> Result<Answered, Error> {
        let DropIndex { name, bucket, if_exists } = drop;
        let done = self.drop_index(call, &bucket_name(&bucket)?, &name, if_exists).await;
        let done = done.map_err(|error| Error::from(answer(&error)))?;
        Ok(Answered::Done { statement: "DROP INDEX", index: name, bucket, revision: done.revision })
    }
}

fn bucket_name(name: &str) -> Result<BucketName, Error> {
    name.parse().map_err(|_| Error {
        kind: Kind::NotFound,
        code: "NoSuchBucket",
        message: format!("{name:?} is not the name of a bucket"),
        position: None,
        source: None,
    })
}
