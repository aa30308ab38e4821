//! From the text of a statement to its tree: what is bounded, what is ours (`AS OF`, indexes), and what is refused.
//!
//! Only what reads passes, by a list of what does: a kind of statement that the parser learns later is refused too. Text is
//! bounded before it is parsed, because a tree that is deep enough would overflow the stack even when it is dropped.

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};
use holdfast_core::index::Value;

use super::ddl::{self, CreateIndex, DropIndex};
use super::error::Error;
use super::name::Place;
use crate::repository::AsOf;

/// Bytes of a statement.
pub(super) const SQL_BYTES_MAX: usize = 256 << 10;
/// Tokens between two commas on one level of parentheses: they bound how deep a chain of operators is.
const CHAIN_TOKENS_MAX: usize = 4000;
/// Set operations and joins of a statement.
const CHAIN_WORDS_MAX: usize = 200;
/// Levels of nesting that the parser follows.
const NESTING_MAX: usize = 64;

/// What a statement asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    /// Rows.
    Query(Box<Tree>),
    /// A new index.
    CreateIndex(CreateIndex),
    /// An index less.
    DropIndex(DropIndex),
}

/// A statement that reads, with the moments that it names.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) statement: ast::Statement,
    pub(super) moments: Vec<Moment>,
    /// Words that may name a hidden column.
    pub(super) mentioned: Vec<String>,
}

/// One `AS OF`.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) at: AsOf,
    /// Where the name or the alias before it begins.
    pub(super) anchor: Option<Location>,
    /// Whether the statement ends after it.
    pub(super) last: bool,
    pub(super) place: Location,
}

/// Parses one statement.
///
/// # Errors
/// `InvalidSql` for what is no statement, or too large a one; `NotImplemented` for what does not read.
pub(super) fn parse(sql: &str) -> Result<Parsed, Error> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::sql(format!("a statement has at most {SQL_BYTES_MAX} bytes")));
    }
    let mut tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| Error::sql(error.message).at(error.location))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    while tokens.last().is_some_and(|token| token.token == Token::SemiColon) {
        tokens.pop();
    }
    if let Some(second) = tokens.iter().position(|token| token.token == Token::SemiColon) {
        return Err(Error::sql("one request holds one statement").at(tokens[second].span.start));
    }
    bounded(&tokens)?;
    if let Some(parsed) = ddl::parse(sql, &tokens)? {
        return Ok(parsed);
    }
    if is_word(tokens.first(), "show") {
        tokens = shown(&tokens)?;
    }
    let moments = take_moments(&mut tokens)?;
    let mentioned = mentioned(&tokens);
    let statement = parse_tree(tokens)?;
    reads(&statement)?;
    Ok(Parsed::Query(Box::new(Tree { statement, moments, mentioned })))
}

fn mentioned(tokens: &[TokenWithSpan]) -> Vec<String> {
    let words = tokens.iter().filter_map(|token| match &token.token {
        Token::Word(word) if word.value.starts_with('_') => Some(match word.quote_style {
            Some(_) => word.value.clone(),
            None => word.value.to_lowercase(),
        }),
        _ => None,
    });
    words.collect()
}

/// `SHOW INDEXES [ON "bucket/prefix/"]` and `SHOW BUCKETS`, as the queries that they are short for.
fn shown(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, Error> {
    let wrong = || Error::not_built("SHOW of anything but INDEXES and BUCKETS").at(tokens[0].span.start);
    let plain = |sql: &str| {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
        let mut tokens = tokens.map_err(|error| Error::sql(error.message))?;
        tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
        Ok(tokens)
    };
    match tokens {
        [_, what] if is_word(Some(what), "buckets") => plain("SELECT * FROM holdfast.buckets ORDER BY bucket"),
        [_, what] if is_word(Some(what), "indexes") => {
            plain("SELECT * FROM holdfast.indexes ORDER BY bucket, prefix, name")
        }
        [_, what, on, TokenWithSpan { token: Token::Word(table), .. }]
            if is_word(Some(what), "indexes") && (is_word(Some(on), "on") || is_word(Some(on), "from")) =>
        {
            let place = Place::parse(&table.value).map_err(|error| error.at(on.span.start))?;
            let text = |text: &str| text.replace('\'', "''");
            plain(&format!(
                "SELECT * FROM holdfast.indexes WHERE bucket = '{}' AND starts_with('{}', prefix) ORDER BY prefix, name",
                text(&place.bucket),
                text(place.prefix())
            ))
        }
        _ => Err(wrong()),
    }
}

fn parse_tree(tokens: Vec<TokenWithSpan>) -> Result<ast::Statement, Error> {
    let mut parser =
        Parser::new(&GenericDialect {}).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(|error| of_parser(&parser, error))?;
    match parser.peek_token() {
        TokenWithSpan { token: Token::EOF, .. } => Ok(statement),
        more => Err(Error::sql(format!("expected the end of the statement, found {}", more.token)).at(more.span.start)),
    }
}

fn of_parser(parser: &Parser<'_>, error: ParserError) -> Error {
    match error {
        ParserError::RecursionLimitExceeded => Error::sql(format!("more than {NESTING_MAX} levels of nesting")),
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => {
            let message = message.split(" at Line:").next().unwrap_or(&message).to_owned();
            Error::sql(message).at(parser.get_current_token().span.start)
        }
    }
}

fn bounded(tokens: &[TokenWithSpan]) -> Result<(), Error> {
    let mut chain_words = 0;
    let mut chains = vec![0_usize];
    for token in tokens {
        let chain = chains.last_mut().ok_or_else(|| Error::sql("a parenthesis too many").at(token.span.start))?;
        *chain += 1;
        if *chain > CHAIN_TOKENS_MAX {
            let message = format!("an expression has at most {CHAIN_TOKENS_MAX} words and signs");
            return Err(Error::sql(message).at(token.span.start));
        }
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => chains.push(0),
            Token::RParen | Token::RBracket | Token::RBrace => drop(chains.pop()),
            Token::Comma => *chain = 0,
            Token::Word(Word {
                keyword: Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::JOIN | Keyword::MINUS,
                ..
            }) => chain_words += 1,
            _ => {}
        }
        if chain_words > CHAIN_WORDS_MAX {
            let message = format!("a statement has at most {CHAIN_WORDS_MAX} joins and set operations");
            return Err(Error::sql(message).at(token.span.start));
        }
    }
    Ok(())
}

pub(super) fn is_word(token: Option<&TokenWithSpan>, wanted: &str) -> bool {
    token.is_some_and(|token| match &token.token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted),
        _ => false,
    })
}

/// Takes each `AS OF REVISION n` and `AS OF TIMESTAMP '…'` out of the tokens.
fn take_moments(tokens: &mut Vec<TokenWithSpan>) -> Result<Vec<Moment>, Error> {
    let mut moments = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let revision = is_word(tokens.get(at + 2), "revision");
        let named = revision || is_word(tokens.get(at + 2), "timestamp");
        if !(named && is_word(tokens.get(at), "as") && is_word(tokens.get(at + 1), "of")) {
            at += 1;
            continue;
        }
        let place = tokens[at].span.start;
        let moment = match (revision, tokens.get(at + 3).map(|token| &token.token)) {
            (true, Some(Token::Number(number, _))) => number.parse().ok().map(AsOf::Revision),
            (false, Some(Token::SingleQuotedString(text))) => match Value::canonical(text) {
                Value::Time(micros) => u64::try_from(micros / 1000).ok().map(AsOf::Timestamp),
                _ => None,
            },
            _ => None,
        };
        let wanted = "AS OF REVISION takes a number, AS OF TIMESTAMP a time such as '2026-01-31T12:00:00Z'";
        let moment = moment.ok_or_else(|| Error::sql(wanted).at(place))?;
        moments.push(Moment { at: moment, anchor: anchor(&tokens[..at]), last: at + 4 >= tokens.len(), place });
        tokens.drain(at..at + 4);
    }
    Ok(moments)
}

/// Where the name before begins: that of a table, its alias, or a table function.
fn anchor(before: &[TokenWithSpan]) -> Option<Location> {
    let mut depth = 0_usize;
    for token in before.iter().rev() {
        match &token.token {
            Token::RParen => depth += 1,
            Token::LParen => depth = depth.checked_sub(1)?,
            Token::Word(_) if depth == 0 => return Some(token.span.start),
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn reads(statement: &ast::Statement) -> Result<(), Error> {
    match statement {
        ast::Statement::Query(query) => query_reads(query),
        ast::Statement::Explain { statement, .. } => match statement.as_ref() {
            ast::Statement::Query(query) => query_reads(query),
            _ => Err(Error::not_built("EXPLAIN of anything but a query")),
        },
        ast::Statement::ExplainTable { .. } => Ok(()),
        other => {
            let text = other.to_string();
            let verb = text.split_whitespace().next().unwrap_or("this").to_uppercase();
            Err(Error::not_built(format!("{verb}: a statement reads, or is CREATE INDEX or DROP INDEX, so it")))
        }
    }
}

/// A query may hide a statement that writes in its body.
fn query_reads(query: &ast::Query) -> Result<(), Error> {
    struct Check;
    impl ast::Visitor for Check {
        type Break = Error;
        fn pre_visit_query(&mut self, query: &ast::Query) -> std::ops::ControlFlow<Error> {
            let mut bodies = vec![query.body.as_ref()];
            while let Some(body) = bodies.pop() {
                match body {
                    ast::SetExpr::Select(_) | ast::SetExpr::Query(_) | ast::SetExpr::Values(_) => {}
                    ast::SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_ref(), right.as_ref()]),
                    _ => return std::ops::ControlFlow::Break(Error::not_built("a query that writes")),
                }
            }
            std::ops::ControlFlow::Continue(())
        }
        fn pre_visit_select(&mut self, select: &ast::Select) -> std::ops::ControlFlow<Error> {
            match select.into {
                Some(_) => std::ops::ControlFlow::Break(Error::not_built("SELECT INTO")),
                None => std::ops::ControlFlow::Continue(()),
            }
        }
    }
    match ast::Visit::visit(query, &mut Check) {
        std::ops::ControlFlow::Break(error) => Err(error),
        std::ops::ControlFlow::Continue(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(sql: &str) -> Tree {
        match parse(sql).unwrap() {
            Parsed::Query(tree) => *tree,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn as_of_is_taken_out_of_the_text() {
        let check = |sql: &str, rest: &str, moments: &[AsOf]| {
            let tree = tree(sql);
            assert_eq!(tree.statement.to_string(), rest);
            assert_eq!(tree.moments.iter().map(|moment| moment.at).collect::<Vec<_>>(), moments);
        };
        check("SELECT 1 AS of", "SELECT 1 AS of", &[]);
        check("SELECT * FROM a AS OF REVISION 7;", "SELECT * FROM a", &[AsOf::Revision(7)]);
        check("SELECT 'AS OF REVISION 7' -- AS OF REVISION 7", "SELECT 'AS OF REVISION 7'", &[]);
        check(
            "select * from a as of timestamp '1970-01-01 00:00:01' x join f('b', (1)) as of revision 9 using (i)",
            "SELECT * FROM a x JOIN f('b', (1)) USING(i)",
            &[AsOf::Timestamp(1000), AsOf::Revision(9)],
        );
    }

    #[test]
    fn what_does_not_read_is_refused() {
        let check = |sql: &str, code: &str| assert_eq!(parse(sql).unwrap_err().code, code, "{sql}");
        for sql in [
            "INSERT INTO a VALUES (1)",
            "UPDATE a SET b = 1",
            "DELETE FROM a",
            "CREATE TABLE a (b INT)",
            "CREATE VIEW a AS SELECT 1",
            "DROP TABLE a",
            "SET x = 1",
            "SHOW x",
            "COPY a TO 'b'",
            "EXPLAIN INSERT INTO a VALUES (1)",
            "SELECT 1 INTO a",
            "WITH a AS (INSERT INTO b VALUES (1)) SELECT 1",
            "SELECT * FROM (SELECT 1 INTO a) b",
            "PREPARE a AS SELECT 1",
            "BEGIN",
        ] {
            check(sql, "NotImplemented");
        }
        for sql in [
            "",
            ";",
            "SELEC 1",
            "SELECT 1; SELECT 2",
            "SELECT 'a",
            "SELECT 1)",
            "TABLE a",
            "SELECT * FROM a AS OF REVISION x",
            "CREATE EXTERNAL TABLE a STORED AS CSV LOCATION '/etc/passwd'",
            "SELECT * FROM a AS OF TIMESTAMP 'now'",
        ] {
            check(sql, "InvalidSql");
        }
    }

    #[test]
    fn a_statement_is_bounded() {
        let check = |sql: String| assert_eq!(parse(&sql).unwrap_err().code, "InvalidSql");
        check(format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000)));
        check(format!("SELECT 1{}", " + 1".repeat(50_000)));
        check(format!("SELECT {}1", "- ".repeat(50_000)));
        check(format!("SELECT 1{}", " UNION ALL SELECT 1, 2".repeat(5_000)));
        check(format!("SELECT '{}'", "x".repeat(10 << 20)));
        check(format!("SELECT 1 WHERE {}true", "NOT ".repeat(3_000)));
    }

    #[test]
    fn an_error_says_where() {
        let error = parse("SELECT a\nFROM b WHERE ,").unwrap_err();
        assert_eq!(error.position.map(|position| position.line), Some(2));
    }
}
