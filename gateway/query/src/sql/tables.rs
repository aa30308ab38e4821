//! Tables in the tree of a statement: table functions and moments become plain names of tables that are known here.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Query, TableAlias, TableFactor,
    TableFunctionArgs, UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use super::error::Error;
use super::format::{Argument, Options, table_function};
use super::name::Place;
use super::statement::Moment;
use super::system::system_table;
use crate::repository::{AsOf, SystemTable};

/// Tables of one statement.
const TABLES_MAX: usize = 64;

/// What a table is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    Objects(Place, Options),
    System(SystemTable),
}

/// A table, and when it is read; `None` is when the statement is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) source: Source,
    pub(super) at: Option<AsOf>,
}

/// Tables that have names of their own making, and when the statement reads.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) named: HashMap<String, Table>,
    pub(super) at: Option<AsOf>,
    /// Functions of the engine, such as `generate_series`, which are no tables.
    pub(super) functions: HashSet<String>,
}

/// What a plain name of a table stands for.
///
/// # Errors
/// `InvalidSql` when it is no name of a table.
pub(super) fn source_of(schema: Option<&str>, name: &str) -> Result<Source, Error> {
    match schema {
        None => Ok(Source::Objects(Place::parse(name)?, Options::default())),
        Some("holdfast") => system_table(name).map(Source::System).ok_or_else(|| {
            let known = "versions, buckets, indexes, locks, events and peers";
            Error::sql(format!("there is no table holdfast.{name}; there are {known}"))
        }),
        Some(schema) => Err(Error::sql(format!(
            "there is no schema {schema:?}: a table is written \"bucket/prefix/\", or holdfast.versions"
        ))),
    }
}

/// Replaces table functions and moments.
///
/// # Errors
/// `InvalidSql` for a moment that belongs to no table, and for arguments that a function does not have.
pub(super) fn take_tables(statement: &mut ast::Statement, moments: Vec<Moment>) -> Result<Tables, Error> {
    let mut take = Take { moments, tables: Tables::default(), queries: HashSet::new(), count: 0 };
    if let ControlFlow::Break(error) = statement.visit(&mut take) {
        return Err(error);
    }
    let mut tables = take.tables;
    for moment in take.moments {
        if !moment.last {
            let message = "AS OF stands after the name of a table, or at the end of the statement";
            return Err(Error::sql(message).at(moment.place));
        }
        tables.at = Some(moment.at);
    }
    Ok(tables)
}

struct Take {
    /// Those that no table took.
    moments: Vec<Moment>,
    tables: Tables,
    /// Names of queries that the statement defines.
    queries: HashSet<String>,
    count: usize,
}

impl VisitorMut for Take {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        self.queries.extend(named.map(|cte| normal(&cte.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        self.count += 1;
        if self.count > TABLES_MAX {
            return ControlFlow::Break(Error::sql(format!("a statement has at most {TABLES_MAX} tables")));
        }
        let TableFactor::Table { name, alias, args, .. } = factor else { return ControlFlow::Continue(()) };
        match self.take(name, alias, args) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Take {
    fn take(
        &mut self,
        name: &mut ObjectName,
        alias: &mut Option<TableAlias>,
        args: &mut Option<TableFunctionArgs>,
    ) -> Result<(), Error> {
        let idents: Vec<Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).cloned().collect();
        let Some(last) = idents.last() else { return Ok(()) };
        let at = self.moment([Some(last.span.start), alias.as_ref().map(|alias| alias.name.span.start)]);
        let place = last.span.start;
        let source = match (args.as_ref(), idents.as_slice()) {
            (Some(args), [function]) => {
                let Some(source) = of_function(&normal(function), args).map_err(|error| error.at(place))? else {
                    self.tables.functions.insert(normal(function));
                    return Ok(());
                };
                source
            }
            // A plain name is resolved where the queries of the statement are known.
            (Some(_), _) => return Ok(()),
            (None, _) if at.is_none() => return Ok(()),
            (None, [table]) if self.queries.contains(&normal(table)) => {
                return Err(Error::sql("AS OF is said of a table, not of a query").at(place));
            }
            (None, [table]) => source_of(None, &normal(table)).map_err(|error| error.at(place))?,
            (None, [schema, table]) => {
                source_of(Some(&normal(schema)), &normal(table)).map_err(|error| error.at(place))?
            }
            (None, _) => return Err(Error::sql("a table's name has one part, or two").at(place)),
        };
        let shown = match (&args, at) {
            (Some(_), _) => format!("{}#{}", normal(last), self.tables.named.len()),
            (None, Some(AsOf::Revision(revision))) => format!("{name} AS OF REVISION {revision}"),
            (None, _) => format!("{name} AS OF {at:?}"),
        };
        if alias.is_none() {
            let columns = Vec::new();
            *alias = Some(TableAlias { explicit: true, name: Ident::with_quote('"', normal(last)), columns, at: None });
        }
        *args = None;
        *name = ObjectName::from(vec![Ident::with_quote_and_span('"', Span::empty(), shown.clone())]);
        self.tables.named.insert(shown, Table { source, at });
        Ok(())
    }

    /// The moment that stands behind one of these places.
    fn moment(&mut self, places: [Option<Location>; 2]) -> Option<AsOf> {
        let found = self.moments.iter().position(|moment| {
            moment.anchor.is_some() && places.contains(&moment.anchor) && moment.anchor != Some(Location::empty())
        })?;
        Some(self.moments.swap_remove(found).at)
    }
}

/// A name as it is looked up: lower case, unless it is quoted.
pub(super) fn normal(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn of_function(name: &str, args: &TableFunctionArgs) -> Result<Option<Source>, Error> {
    if !name.starts_with("read_") {
        return Ok(None);
    }
    let (mut path, mut named) = (None, Vec::new());
    for arg in &args.args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if path.is_none() => match literal(expr) {
                Some(Argument::Text(text)) => path = Some(text),
                _ => return Err(Error::sql(format!("{name} reads a path such as 's3://bucket/prefix/*.csv'"))),
            },
            FunctionArg::Named { name: argument, arg: FunctionArgExpr::Expr(expr), .. } => {
                let value = literal(expr)
                    .ok_or_else(|| Error::sql(format!("{argument} takes a text, a number, true or false")))?;
                named.push((normal(argument), value));
            }
            _ => return Err(Error::sql(format!("{name} takes a path, and then arguments as name => value"))),
        }
    }
    let path = path.ok_or_else(|| Error::sql(format!("{name} reads a path such as 's3://bucket/prefix/*.csv'")))?;
    match table_function(name, &path, &named)? {
        Some((place, options)) => Ok(Some(Source::Objects(place, options))),
        None => Err(Error::sql(format!("there is no function {name}; there are read_csv, read_json and read_parquet"))),
    }
}

fn literal(expr: &Expr) -> Option<Argument> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(Argument::Text(text.clone())),
            Value::Number(number, _) => number.parse().ok().map(Argument::Number),
            Value::Boolean(flag) => Some(Argument::Flag(*flag)),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => literal(expr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::statement::{Parsed, parse};
    use super::*;

    fn taken(sql: &str) -> Result<(String, Tables), Error> {
        let Parsed::Query(mut tree) = parse(sql)? else { panic!("{sql} reads") };
        let tables = take_tables(&mut tree.statement, tree.moments)?;
        Ok((tree.statement.to_string(), tables))
    }

    #[test]
    fn a_moment_belongs_to_its_table_or_to_the_statement() {
        let check = |sql: &str, of_tables: &[AsOf], of_statement: Option<AsOf>| {
            let (_, tables) = taken(sql).unwrap();
            let mut found: Vec<u64> = tables
                .named
                .values()
                .filter_map(|table| table.at)
                .map(|at| if let AsOf::Revision(revision) = at { revision } else { 0 })
                .collect();
            found.sort_unstable();
            let expected: Vec<u64> =
                of_tables.iter().map(|at| if let AsOf::Revision(revision) = at { *revision } else { 0 }).collect();
            assert_eq!((found, tables.at), (expected, of_statement), "{sql}");
        };
        check("SELECT * FROM \"b/\" AS OF REVISION 3", &[AsOf::Revision(3)], None);
        check("SELECT * FROM \"b/\" x WHERE x.a = 1 AS OF REVISION 3", &[], Some(AsOf::Revision(3)));
        check("SELECT * FROM \"b/\" x AS OF REVISION 3 WHERE a = 1", &[AsOf::Revision(3)], None);
        check(
            "SELECT * FROM \"b/\" AS OF REVISION 3 x, \"b/\" AS OF REVISION 4 y",
            &[AsOf::Revision(3), AsOf::Revision(4)],
            None,
        );
        check("SELECT * FROM read_csv('b/*.csv', header => false) AS OF REVISION 3", &[AsOf::Revision(3)], None);
        check("SELECT * FROM holdfast.versions AS OF REVISION 3 LIMIT 1", &[AsOf::Revision(3)], None);
        check("SELECT 1 AS OF REVISION 3", &[], Some(AsOf::Revision(3)));
        for sql in [
            "SELECT a AS OF REVISION 3 FROM \"b/\"",
            "WITH q AS (SELECT 1) SELECT * FROM q AS OF REVISION 3 WHERE true",
            "SELECT * FROM pg_catalog.x AS OF REVISION 3",
        ] {
            assert!(taken(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn table_functions_become_names() {
        let (sql, tables) =
            taken("SELECT read_csv.a FROM read_csv('s3://b/*.csv', delimiter => ';', header => true)").unwrap();
        assert_eq!(sql, "SELECT read_csv.a FROM \"read_csv#0\" AS \"read_csv\"");
        assert!(matches!(&tables.named["read_csv#0"].source, Source::Objects(place, _) if place.bucket == "b"));
        for sql in [
            "SELECT * FROM read_csv()",
            "SELECT * FROM read_csv(a)",
            "SELECT * FROM read_csv('b/a', 'c')",
            "SELECT * FROM read_csv('file:///etc/passwd')",
            "SELECT * FROM read_text('b/a')",
        ] {
            assert_eq!(taken(sql).unwrap_err().code, "InvalidSql", "{sql}");
        }
    }

    #[test]
    fn a_statement_has_so_many_tables_and_no_more() {
        let sql = format!("SELECT * FROM \"b/\"{}", ", \"b/\"".repeat(70));
        assert_eq!(taken(&sql).unwrap_err().code, "InvalidSql");
    }
}
