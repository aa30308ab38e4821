//! Rows of the system tables, from the repository in memory.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMillisecondArray, new_empty_array,
};
use holdfast_query::repository::{ObjectVersion, SystemFilter, SystemTable};
use holdfast_query::sql::{map_builder, system_schema};

use super::memory::Memory;

pub fn rows(revision: u64, memory: &Memory, table: SystemTable, filter: &SystemFilter) -> RecordBatch {
    match table {
        SystemTable::Versions => versions(revision, memory, filter),
        SystemTable::Indexes => indexes(memory),
        SystemTable::Buckets => buckets(memory),
        SystemTable::Locks | SystemTable::Events | SystemTable::Peers => {
            let schema = system_schema(table);
            let columns = schema.fields().iter().map(|field| new_empty_array(field.data_type())).collect();
            RecordBatch::try_new(schema, columns).unwrap()
        }
    }
}

fn versions(revision: u64, memory: &Memory, filter: &SystemFilter) -> RecordBatch {
    let found: Vec<(Arc<ObjectVersion>, bool)> = memory
        .versions(revision)
        .into_iter()
        .filter(|(version, latest)| {
            filter.bucket.as_ref().is_none_or(|bucket| version.bucket == *bucket)
                && filter.prefix.as_ref().is_none_or(|prefix| version.key.starts_with(prefix.as_str()))
                && (*latest || !filter.latest)
        })
        .collect();
    let text = |value: &dyn Fn(&ObjectVersion) -> Option<String>| -> ArrayRef {
        Arc::new(found.iter().map(|(version, _)| value(version)).collect::<StringArray>())
    };
    let number = |value: &dyn Fn(&ObjectVersion) -> i64| -> ArrayRef {
        Arc::new(found.iter().map(|(version, _)| Some(value(version))).collect::<Int64Array>())
    };
    let flag = |value: &dyn Fn(bool) -> bool| -> ArrayRef {
        Arc::new(found.iter().map(|(_, latest)| Some(value(*latest))).collect::<BooleanArray>())
    };
    let times = || -> ArrayRef {
        let times = found.iter().map(|(version, _)| Some(version.modified_ms as i64));
        Arc::new(times.collect::<TimestampMillisecondArray>().with_timezone("+00:00"))
    };
    let maps = |of: &dyn Fn(&ObjectVersion) -> Vec<(String, String)>| -> ArrayRef {
        let mut builder = map_builder();
        for (version, _) in &found {
            for (name, value) in of(version) {
                builder.keys().append_value(name);
                builder.values().append_value(value);
            }
            builder.append(true).unwrap();
        }
        Arc::new(builder.finish())
    };
    let columns = vec![
        text(&|version| Some(version.bucket.clone())),
        text(&|version| Some(version.key.clone())),
        text(&|version| version.version_id.clone()),
        number(&|version| version.id.revision as i64),
        flag(&|latest| latest),
        flag(&|_| false),
        number(&|version| version.size as i64),
        text(&|version| Some(version.etag.clone())),
        text(&|_| None),
        times(),
        times(),
        text(&|version| version.content_type.clone()),
        maps(&|version| version.metadata.clone().into_iter().collect()),
        maps(&|version| version.tags.clone().into_iter().collect()),
        text(&|_| None),
    ];
    RecordBatch::try_new(system_schema(SystemTable::Versions), columns).unwrap()
}

fn indexes(memory: &Memory) -> RecordBatch {
    let list = memory.index_list();
    let mut expressions = ListBuilder::new(StringBuilder::new());
    for index in list {
        for expression in &index.expressions {
            expressions.values().append_value(expression.to_string());
        }
        expressions.append(true);
    }
    let text = |value: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new((0..list.len()).map(|at| Some(value(at))).collect::<StringArray>())
    };
    let zero = || -> ArrayRef { Arc::new(Int64Array::from(vec![0; list.len()])) };
    let columns = vec![
        text(&|at| list[at].bucket.clone()),
        text(&|at| list[at].prefix.clone()),
        text(&|at| list[at].name.clone()),
        zero(),
        text(&|at| format!("{:?}", list[at].kind).to_lowercase()),
        Arc::new(BooleanArray::from(vec![false; list.len()])),
        Arc::new(expressions.finish()),
        text(&|_| "ready".to_owned()),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
    ];
    RecordBatch::try_new(system_schema(SystemTable::Indexes), columns).unwrap()
}

fn buckets(memory: &Memory) -> RecordBatch {
    let names: Vec<String> = memory.bucket_list().cloned().collect();
    let zero = || -> ArrayRef { Arc::new(Int64Array::from(vec![0; names.len()])) };
    let columns = vec![
        Arc::new(StringArray::from(names.clone())) as ArrayRef,
        zero(),
        Arc::new(TimestampMillisecondArray::from(vec![0; names.len()]).with_timezone("+00:00")),
        Arc::new(StringArray::from(vec!["enabled"; names.len()])),
        zero(),
        zero(),
    ];
    RecordBatch::try_new(system_schema(SystemTable::Buckets), columns).unwrap()
}
