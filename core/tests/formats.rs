//! `docs/formats.md` against the code: each table of fields or variants there has exactly the numbers that are stored.
//!
//! A table is marked by a comment before it: `fields: NAME PATH` (the map or array at a path in the sample of that name)
//! or `variants: PREFIX... PATH` (the numbers at a path in all samples whose names start so).

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use holdfast_core::keyspace::Keyspace;
use support::cbor::Tree;
use support::samples;

const FORMATS: &str = include_str!("../../docs/formats.md");

/// Each marked table: the marker's words, and the numbers in its first column.
fn tables() -> Vec<(Vec<&'static str>, Vec<u64>)> {
    let mut tables = Vec::new();
    let mut lines = FORMATS.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(marker) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) else { continue };
        let rows = std::iter::from_fn(|| lines.next_if(|line| line.starts_with('|'))).skip(2);
        let numbers =
            rows.map(|row| row.split('|').nth(1).unwrap().trim().parse().expect("a number in the first column"));
        tables.push((marker.split_whitespace().collect(), numbers.collect()));
    }
    tables
}

fn numbers(words: &[&str]) -> Vec<u64> {
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn every_table_of_fields_is_what_is_stored() {
    let all = samples::all();
    let mut checked = BTreeSet::new();
    for (marker, listed) in tables().into_iter().filter(|(marker, _)| marker[0] == "fields:") {
        let sample = all.iter().find(|sample| sample.name == marker[1]).unwrap_or_else(|| panic!("{marker:?}"));
        let stored: Vec<u64> = match Tree::parse(&sample.bytes).at(&numbers(&marker[2..])) {
            Tree::Map(fields) => fields
                .iter()
                .map(|(key, _)| match key {
                    Tree::Number(number) => *number,
                    key => panic!("{marker:?}: {key:?} is not a field number"),
                })
                .collect(),
            Tree::Array(items) => (0..items.len() as u64).collect(),
            node => panic!("{marker:?} marks {node:?}"),
        };
        assert_eq!(listed, stored, "{marker:?}");
        checked.insert(marker[1]);
    }
    let records = all.iter().filter(|sample| sample.name.starts_with("record-"));
    // Some kinds have several samples; the fullest is the one that is specified.
    let missing: Vec<&str> = records
        .map(|sample| sample.name.as_str())
        .filter(|name| !name.ends_with("-plain") && !name.starts_with("record-version") && !checked.contains(name))
        .collect();
    assert_eq!(missing, [""; 0], "records without a table");
}

#[test]
fn every_table_of_variants_is_what_is_stored() {
    for (marker, listed) in tables().into_iter().filter(|(marker, _)| marker[0] == "variants:") {
        let prefixes: Vec<&str> = marker[1..].iter().copied().filter(|word| word.ends_with('-')).collect();
        let mut stored = BTreeSet::new();
        for sample in samples::all() {
            if prefixes.iter().any(|prefix| sample.name.starts_with(prefix)) {
                let mut path = numbers(&marker[1..]);
                path.push(0);
                match Tree::parse(&sample.bytes).at(&path) {
                    Tree::Number(number) => stored.insert(*number),
                    node => panic!("{marker:?} marks {node:?} in {}", sample.name),
                };
            }
        }
        assert_eq!(listed, stored.into_iter().collect::<Vec<_>>(), "{marker:?}");
    }
}

/// The fields of each operation stand in one cell of its row: `0 target, 1 content, ...`.
#[test]
fn every_operation_lists_its_fields() {
    let all = samples::commands();
    let rows = FORMATS.lines().skip_while(|line| *line != "<!-- variants: command- 2 -->").skip(3);
    let mut checked = 0;
    for row in rows.take_while(|row| row.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let variant: u64 = cells[1].parse().unwrap();
        let fields =
            cells[3].split(", ").filter_map(|field| field.split(' ').next().and_then(|word| word.parse().ok()));
        let listed: Vec<u64> = fields.collect();
        if listed.is_empty() {
            continue;
        }
        let mut trees = all.iter().map(|sample| Tree::parse(&sample.bytes));
        let mut tree = trees.find(|tree| *tree.clone().at(&[2, 0]) == Tree::Number(variant)).unwrap();
        let Tree::Map(stored) = tree.at(&[2, 1, 0]) else { panic!("{row}") };
        let stored: Vec<Tree> = stored.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(listed.into_iter().map(Tree::Number).collect::<Vec<_>>(), stored, "{row}");
        checked += 1;
    }
    assert_eq!(checked, 34);
}

#[test]
fn every_keyspace_is_listed_with_its_number() {
    for keyspace in Keyspace::ALL {
        let row = format!("| {} | `{}` |", keyspace as u8, keyspace.name());
        assert!(FORMATS.contains(&row), "{row}");
    }
}
