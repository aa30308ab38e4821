//! Predicates on what is known of objects: the filter of a listing.
//!
//! ```sql
//! tags['state'] = 'open' AND size > 1000000 AND key LIKE '%.csv' AND NOT metadata['owner'] IN ('a', 'b')
//! ```
//! Names are those that indexes have: `key`, `size`, `last_modified`, `etag`, `content_type`, `metadata['x']`, `tags['x']`,
//! `split_part(key, '/', n)`. Values are canonical as in indexes ([`holdfast_core::index`]): text that reads as a number, a
//! time or a boolean is one, and values of different kinds do not compare. As in SQL, what is absent is unknown, and only
//! what is true is listed.

use std::cmp::Ordering;
use std::ops::Bound;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Subscript, UnaryOperator,
    Value as Literal,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use holdfast_core::index::{Constraint, Expression, IndexInfo, Interval, Value, intervals};

use crate::compare::Compare;
use crate::repository::ObjectVersion;

/// Bytes of a filter.
pub const FILTER_BYTES_MAX: usize = 8 << 10;
/// Levels that the parser follows.
const NESTING_MAX: usize = 32;
/// Operators of one filter.
const OPERATORS_MAX: usize = 200;

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(String);

/// A predicate.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Compare(Expression, Compare, String),
    In(Expression, Vec<String>),
    Like(Expression, String),
    IsNull(Expression),
}

impl Filter {
    /// The predicate that a text says.
    ///
    /// # Errors
    /// [`FilterError`] for what is no predicate of the kinds above.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(FilterError(format!("a filter has at most {FILTER_BYTES_MAX} bytes")));
        }
        let parser = Parser::new(&GenericDialect {}).with_recursion_limit(NESTING_MAX).try_with_sql(text);
        let mut parser = parser.map_err(|error| FilterError(error.to_string()))?;
        let tree = parser.parse_expr().map_err(|error| FilterError(error.to_string()))?;
        if parser.peek_token() != datafusion::sql::sqlparser::tokenizer::Token::EOF {
            return Err(FilterError(format!("{} is not expected after the filter", parser.peek_token())));
        }
        let mut left = OPERATORS_MAX;
        node(&tree, &mut left).map(Self)
    }

    /// Whether it holds for an object.
    #[must_use]
    pub fn holds(&self, object: &ObjectVersion) -> bool {
        holds(&self.0, object) == Some(true)
    }

    /// The intervals of an index that hold every object for which it holds; `None` when the index cannot tell.
    #[must_use]
    pub fn intervals(&self, index: &IndexInfo) -> Option<Vec<Interval>> {
        let conjuncts = match &self.0 {
            Node::And(nodes) => &nodes[..],
            node => std::slice::from_ref(node),
        };
        let constraint = |expression: &Expression| conjuncts.iter().find_map(|node| constraint(node, expression));
        let constraints: Vec<Constraint<'_>> = index.expressions.iter().map_while(constraint).collect();
        intervals(&constraints)
    }
}

fn node(tree: &Expr, left: &mut usize) -> Result<Node, FilterError> {
    *left = left.checked_sub(1).ok_or_else(|| FilterError(format!("more than {OPERATORS_MAX} operators")))?;
    match tree {
        Expr::Nested(tree) => node(tree, left),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(Node::Not(Box::new(node(expr, left)?))),
        Expr::BinaryOp { left: a, op: BinaryOperator::And, right: b } => {
            Ok(Node::And(joined(node(a, left)?, node(b, left)?, true)))
        }
        Expr::BinaryOp { left: a, op: BinaryOperator::Or, right: b } => {
            Ok(Node::Or(joined(node(a, left)?, node(b, left)?, false)))
        }
        Expr::BinaryOp { left: a, op, right: b } => comparison(a, op, b),
        Expr::Between { expr, negated, low, high } => {
            let name = name(expr)?;
            let low = Node::Compare(name.clone(), Compare::GreaterOrEqual, literal(low)?);
            let high = Node::Compare(name, Compare::LessOrEqual, literal(high)?);
            Ok(negate(Node::And(vec![low, high]), *negated))
        }
        Expr::InList { expr, list, negated } => {
            let list = list.iter().map(literal).collect::<Result<_, _>>()?;
            Ok(negate(Node::In(name(expr)?, list), *negated))
        }
        Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
            Ok(negate(Node::Like(name(expr)?, literal(pattern)?), *negated))
        }
        Expr::IsNull(expr) => Ok(Node::IsNull(name(expr)?)),
        Expr::IsNotNull(expr) => Ok(Node::Not(Box::new(Node::IsNull(name(expr)?)))),
        other => Err(FilterError(format!("{other} is no predicate that a listing can have"))),
    }
}

/// The parts of both, where they are of the same kind as what joins them.
fn joined(a: Node, b: Node, and: bool) -> Vec<Node> {
    let parts = |node| match node {
        Node::And(nodes) if and => nodes,
        Node::Or(nodes) if !and => nodes,
        node => vec![node],
    };
    let mut nodes = parts(a);
    nodes.extend(parts(b));
    nodes
}

fn negate(node: Node, negated: bool) -> Node {
    if negated { Node::Not(Box::new(node)) } else { node }
}

fn comparison(a: &Expr, op: &BinaryOperator, b: &Expr) -> Result<Node, FilterError> {
    let compare = match op {
        BinaryOperator::Eq => Compare::Equal,
        BinaryOperator::NotEq => Compare::NotEqual,
        BinaryOperator::Lt => Compare::Less,
        BinaryOperator::LtEq => Compare::LessOrEqual,
        BinaryOperator::Gt => Compare::Greater,
        BinaryOperator::GtEq => Compare::GreaterOrEqual,
        other => return Err(FilterError(format!("{other} is no operator that a listing can have"))),
    };
    if let Ok(name) = name(a) {
        return Ok(Node::Compare(name, compare, literal(b)?));
    }
    Ok(Node::Compare(name(b)?, compare.flipped(), literal(a)?))
}

fn name(tree: &Expr) -> Result<Expression, FilterError> {
    let unknown = || FilterError(format!("{tree} is nothing that a listing knows of an object"));
    match tree {
        Expr::Nested(tree) => name(tree),
        Expr::Identifier(identifier) => match identifier.value.to_ascii_lowercase().as_str() {
            "key" => Ok(Expression::Key),
            "size" => Ok(Expression::Size),
            "last_modified" => Ok(Expression::LastModified),
            "etag" => Ok(Expression::Etag),
            "content_type" => Ok(Expression::ContentType),
            _ => Err(unknown()),
        },
        Expr::CompoundFieldAccess { root, access_chain } => {
            let (Expr::Identifier(root), [AccessExpr::Subscript(Subscript::Index { index })]) =
                (root.as_ref(), &access_chain[..])
            else {
                return Err(unknown());
            };
            let name = literal(index)?;
            match root.value.to_ascii_lowercase().as_str() {
                "metadata" => Ok(Expression::Metadata(name.to_ascii_lowercase())),
                "tags" => Ok(Expression::Tag(name)),
                _ => Err(unknown()),
            }
        }
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("split_part") => {
            let FunctionArguments::List(list) = &function.args else { return Err(unknown()) };
            let argument = |at: usize| match list.args.get(at) {
                Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(tree))) => Some(tree),
                _ => None,
            };
            let (Some(of), Some(by), Some(part), 3) = (argument(0), argument(1), argument(2), list.args.len()) else {
                return Err(unknown());
            };
            let part = literal(part)?.parse().ok().filter(|part| *part > 0).ok_or_else(unknown)?;
            if name(of)? != Expression::Key || literal(by)? != "/" {
                return Err(unknown());
            }
            Ok(Expression::KeyPart(part))
        }
        _ => Err(unknown()),
    }
}

/// The text of a literal: what it says is canonical anyway.
fn literal(tree: &Expr) -> Result<String, FilterError> {
    match tree {
        Expr::Nested(tree) => literal(tree),
        Expr::Value(value) => match &value.value {
            Literal::Number(text, _) => Ok(text.clone()),
            Literal::SingleQuotedString(text) => Ok(text.clone()),
            Literal::Boolean(value) => Ok(value.to_string()),
            other => Err(FilterError(format!("{other} is no value that a listing can compare"))),
        },
        Expr::TypedString(typed) => literal(&Expr::Value(typed.value.clone())),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Ok(format!("-{}", literal(expr)?)),
        other => Err(FilterError(format!("{other} is no value: an attribute is compared with a literal"))),
    }
}

/// What an object has there, as text for patterns.
fn with_text<T>(object: &ObjectVersion, expression: &Expression, look: impl FnOnce(Option<&str>) -> T) -> T {
    match expression {
        Expression::Key => look(Some(&object.key)),
        Expression::KeyPart(part) => {
            look(Some(object.key.split('/').nth(usize::from(*part).saturating_sub(1)).unwrap_or_default()))
        }
        Expression::Size => look(Some(&object.size.to_string())),
        Expression::Etag => look(Some(&object.etag)),
        Expression::ContentType => look(object.content_type.as_deref()),
        Expression::Metadata(name) => look(object.metadata.get(name).map(String::as_str)),
        Expression::Tag(name) => look(object.tags.get(name).map(String::as_str)),
        Expression::LastModified | Expression::Field(_) => look(None),
    }
}

/// What an object has there.
fn with_value<T>(object: &ObjectVersion, expression: &Expression, look: impl FnOnce(Value<'_>) -> T) -> T {
    if *expression == Expression::LastModified {
        let ms = i64::try_from(object.modified_ms).unwrap_or(i64::MAX);
        return look(Value::Time(ms.saturating_mul(1000)));
    }
    with_text(object, expression, |text| look(text.map_or(Value::Null, Value::canonical)))
}

fn compared(object: &ObjectVersion, expression: &Expression, literal: &str) -> Option<Option<Ordering>> {
    with_value(object, expression, |value| {
        let other = Value::canonical(literal);
        if value == Value::Null {
            return None;
        }
        if value.class() != other.class() {
            return Some(None);
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        value.encode(&mut a);
        other.encode(&mut b);
        Some(Some(a.cmp(&b)))
    })
}

/// True, false, or unknown.
fn holds(node: &Node, object: &ObjectVersion) -> Option<bool> {
    match node {
        Node::And(nodes) => all(nodes, object, false),
        Node::Or(nodes) => all(nodes, object, true),
        Node::Not(node) => holds(node, object).map(|holds| !holds),
        Node::Compare(expression, compare, literal) => compare.holds(compared(object, expression, literal)?),
        Node::In(expression, list) => {
            let mut known = false;
            for literal in list {
                if compared(object, expression, literal)? == Some(Ordering::Equal) {
                    return Some(true);
                }
                known = true;
            }
            known.then_some(false)
        }
        Node::Like(expression, pattern) => with_text(object, expression, |text| Some(like(text?, pattern))),
        Node::IsNull(expression) => Some(with_value(object, expression, |value| value == Value::Null)),
    }
}

/// Whether all hold, or with `any` whether one does.
fn all(nodes: &[Node], object: &ObjectVersion, any: bool) -> Option<bool> {
    let mut known = true;
    for node in nodes {
        match holds(node, object) {
            Some(holds) if holds == any => return Some(any),
            Some(_) => {}
            None => known = false,
        }
    }
    known.then_some(!any)
}

/// `%` is any text, `_` one character, a backslash takes the next one as it is. Source: SQL:2016, 8.5.
fn like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut in_pattern, mut star) = (0, 0, None);
    while at < text.len() {
        let (wanted, width) = match (pattern.get(in_pattern), pattern.get(in_pattern + 1)) {
            (Some('\\'), Some(next)) => (Some(*next), 2),
            (Some('_'), _) => (Some(text[at]), 1),
            (Some('%'), _) => {
                star = Some((in_pattern + 1, at));
                in_pattern += 1;
                continue;
            }
            (next, _) => (next.copied(), 1),
        };
        if wanted == Some(text[at]) {
            (at, in_pattern) = (at + 1, in_pattern + width);
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (at, in_pattern) = (from + 1, after);
        } else {
            return false;
        }
    }
    pattern[in_pattern..].iter().all(|c| *c == '%')
}

/// What a part of a conjunction says of an expression, for an index.
fn constraint<'a>(node: &'a Node, wanted: &Expression) -> Option<Constraint<'a>> {
    match node {
        Node::Compare(expression, compare, literal) if expression == wanted => {
            let value = Value::canonical(literal);
            let (low, high) = match compare {
                Compare::Equal => return Some(Constraint::Equal(vec![value])),
                Compare::NotEqual => return None,
                Compare::Less | Compare::LessOrEqual => (Bound::Unbounded, Bound::Included(value)),
                Compare::Greater | Compare::GreaterOrEqual => (Bound::Included(value), Bound::Unbounded),
            };
            Some(Constraint::Between(value.class(), low, high))
        }
        Node::In(expression, list) if expression == wanted => {
            Some(Constraint::Equal(list.iter().map(|literal| Value::canonical(literal)).collect()))
        }
        Node::Like(expression, pattern) if expression == wanted => {
            let start = pattern.split(['%', '_', '\\']).next().filter(|start| !start.is_empty())?;
            Some(Constraint::Prefix(start))
        }
        // `BETWEEN` is a conjunction of its own only under another one.
        Node::And(nodes) => nodes.iter().find_map(|node| constraint(node, wanted)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdfast_core::index::{IndexKind, IndexState};

    use super::*;
    use crate::repository::VersionKey;

    fn object() -> ObjectVersion {
        ObjectVersion {
            id: VersionKey { bucket: 1, revision: 2, ordinal: 0, generation: 2 },
            bucket: "abc".into(),
            key: "logs/2026/a.csv".into(),
            version_id: None,
            size: 1000,
            etag: "0123".into(),
            modified_ms: 1_700_000_000_000,
            content_type: Some("text/csv".into()),
            content_encoding: None,
            metadata: BTreeMap::from([("owner".into(), "zoë".into()), ("n".into(), "9".into())]),
            tags: BTreeMap::from([("state".into(), "open".into()), ("flag".into(), "TRUE".into())]),
        }
    }

    #[test]
    fn a_filter_holds_as_in_sql() {
        let check = |text: &str, expected: bool| {
            assert_eq!(Filter::parse(text).unwrap().holds(&object()), expected, "{text}");
        };
        check("tags['state'] = 'open'", true);
        check("TAGS['state'] = 'open' AND size > 999 AND size <= 1000.0", true);
        check("1000 < size", false);
        check("metadata['n'] > 10", false);
        check("metadata['N'] BETWEEN 8 AND 10", true);
        check("metadata['n'] NOT BETWEEN 8 AND 10", false);
        check("metadata['owner'] > 10", false);
        check("tags['flag'] = true", true);
        check("tags['none'] = 'x'", false);
        check("NOT tags['none'] = 'x'", false);
        check("tags['none'] <> 'x'", false);
        check("tags['none'] IS NULL AND tags['state'] IS NOT NULL", true);
        check("tags['none'] = 'x' OR size = 1000", true);
        check("key LIKE 'logs/%.csv' AND key NOT LIKE '%.json'", true);
        check("key LIKE 'logs/20_6/_.csv'", true);
        check("key LIKE '%/a.cs'", false);
        check("metadata['owner'] LIKE 'zo_'", true);
        check("split_part(key, '/', 2) = 2026 AND split_part(key, '/', 9) = ''", true);
        check("last_modified > TIMESTAMP '2023-11-14 22:13:19' AND last_modified < '2023-11-14T22:13:21Z'", true);
        check("size IN (1, 1000)", true);
        check("size NOT IN (1, 1000)", false);
        check("(content_type = 'text/csv')", true);
        check("size > -1", true);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [
            "",
            "size",
            "size >",
            "size = size",
            "x = 1",
            "size = 1; DROP",
            "size = 1 size = 2",
            "lower(key) = 'a'",
            "size + 1 = 2",
            "tags = 'x'",
            "tags[1:2] = 'x'",
            "size = (SELECT 1)",
            "split_part(key, ',', 1) = 'a'",
            "EXISTS (SELECT 1)",
            "key LIKE 'a' ESCAPE '!'",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
        assert!(Filter::parse(&"(".repeat(5000)).is_err());
        assert!(Filter::parse(&vec!["size = 1"; 500].join(" OR ")).is_err());
        assert!(Filter::parse(&"a".repeat(FILTER_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn an_index_is_searched_where_it_can_tell() {
        let index = |expressions: &[Expression]| IndexInfo {
            id: 1,
            name: "i".into(),
            bucket: "abc".into(),
            prefix: String::new(),
            kind: IndexKind::BTree,
            unique: false,
            expressions: expressions.to_vec(),
            state: IndexState::Ready,
            objects: 0,
            entries: 0,
            pending: 0,
            unparsed: 0,
            bytes: 0,
            block_bytes: 0,
            runs: 0,
            run_bytes: 0,
        };
        let found = |text: &str, expressions: &[Expression]| {
            Filter::parse(text).unwrap().intervals(&index(expressions)).map(|intervals| intervals.len())
        };
        let state = Expression::Tag("state".into());
        assert_eq!(found("tags['state'] = 'open' AND size > 5", std::slice::from_ref(&state)), Some(1));
        assert_eq!(found("tags['state'] = 'open' AND size > 5", &[state.clone(), Expression::Size]), Some(4));
        assert_eq!(found("tags['state'] = 'open' OR size > 5", std::slice::from_ref(&state)), None);
        assert_eq!(found("size BETWEEN 1 AND 5", &[Expression::Size]), Some(4));
        assert_eq!(found("NOT size = 1", &[Expression::Size]), None);
        assert_eq!(found("key LIKE 'a%'", &[Expression::Key]), Some(4));
        assert_eq!(found("tags['state'] IN ('a', 'b')", &[state]), Some(2));
    }
}
