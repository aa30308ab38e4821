//! What the columns of CSV are called: the same for statements and for indexes.

use std::collections::HashSet;

/// The names that a first row gives to its columns, without spaces around them. One without a name is called by its number,
/// and the second of a name by how many there were before.
pub(crate) fn column_names<'a>(fields: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken = HashSet::new();
    let unique = |(at, field): (usize, &str)| {
        // A mark of byte order stands before the first name.
        let field = if at == 0 { field.trim_start_matches('\u{feff}') } else { field };
        let name = match field.trim() {
            "" => format!("column_{}", at + 1),
            name => name.to_owned(),
        };
        let mut unique = name.clone();
        let mut copy = 0;
        while !taken.insert(unique.clone()) {
            copy += 1;
            unique = format!("{name}_{copy}");
        }
        unique
    };
    fields.into_iter().enumerate().map(unique).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_never_empty() {
        let check = |row: &str, expected: &[&str]| assert_eq!(column_names(row.split(',')), expected, "{row}");
        check("a,b", &["a", "b"]);
        check(" a ,a,,a", &["a", "a_1", "column_3", "a_2"]);
        check("\u{feff}a,\u{feff}a", &["a", "\u{feff}a"]);
        check("\u{feff}", &["column_1"]);
    }
}
