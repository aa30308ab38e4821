//! Statements about indexes: `CREATE INDEX` and `DROP INDEX` are parsed here and carried out by the gateway.
//!
//! They are read from the tokens, not by the parser, because a path such as `$.customer['id']` is no SQL.

use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use holdfast_core::index::{EXPRESSIONS_MAX, Expression, IndexKind, NAME_BYTES_MAX, Step, parse_path};

use super::error::Error;
use super::name::{Keys, Place};
use super::statement::{Parsed, is_word};

/// `CREATE [UNIQUE] INDEX [IF NOT EXISTS] name ON "bucket/prefix/" [USING BTREE | HASH] (expression, ...)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateIndex {
    /// Name of the index.
    pub name: String,
    /// Bucket.
    pub bucket: String,
    /// Prefix of the partition: empty, or ending in a slash.
    pub prefix: String,
    /// How entries are kept.
    pub kind: IndexKind,
    /// Whether two rows may not share their values.
    pub unique: bool,
    /// Whether an index of that name is no error.
    pub if_not_exists: bool,
    /// What is indexed.
    pub expressions: Vec<Expression>,
}

/// `DROP INDEX [IF EXISTS] name ON "bucket"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropIndex {
    /// Name of the index.
    pub name: String,
    /// Bucket, in which it is unique.
    pub bucket: String,
    /// Whether its absence is no error.
    pub if_exists: bool,
}

/// The statement, when it is about indexes.
pub(super) fn parse(sql: &str, tokens: &[TokenWithSpan]) -> Result<Option<Parsed>, Error> {
    let mut cursor = Cursor { sql, tokens, at: 0 };
    if cursor.takes(&["create", "index"]) {
        return cursor.create(false).map(|create| Some(Parsed::CreateIndex(create)));
    }
    if cursor.takes(&["create", "unique", "index"]) {
        return cursor.create(true).map(|create| Some(Parsed::CreateIndex(create)));
    }
    if cursor.takes(&["drop", "index"]) {
        return cursor.remove().map(|remove| Some(Parsed::DropIndex(remove)));
    }
    Ok(None)
}

struct Cursor<'a> {
    sql: &'a str,
    tokens: &'a [TokenWithSpan],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|token| &token.token)
    }

    fn place(&self) -> Location {
        self.tokens.get(self.at).or(self.tokens.last()).map_or_else(Location::empty, |token| token.span.start)
    }

    fn wrong(&self, wanted: &str) -> Error {
        let found = self.peek().map_or_else(|| "the end".to_owned(), ToString::to_string);
        Error::sql(format!("expected {wanted}, found {found}")).at(self.place())
    }

    /// Steps over all of the words, or none.
    fn takes(&mut self, words: &[&str]) -> bool {
        let all = words.iter().enumerate().all(|(at, word)| is_word(self.tokens.get(self.at + at), word));
        if all {
            self.at += words.len();
        }
        all
    }

    fn name(&mut self, of: &str) -> Result<String, Error> {
        match self.peek() {
            Some(Token::Word(word)) if !word.value.is_empty() => {
                self.at += 1;
                Ok(word.value.clone())
            }
            _ => Err(self.wrong(of)),
        }
    }

    fn index_name(&mut self) -> Result<String, Error> {
        let place = self.place();
        let name = self.name("the name of an index")?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::sql(format!("an index's name has at most {NAME_BYTES_MAX} bytes")).at(place));
        }
        Ok(name)
    }

    fn end(&self) -> Result<(), Error> {
        if self.at < self.tokens.len() { Err(self.wrong("the end of the statement")) } else { Ok(()) }
    }

    fn create(&mut self, unique: bool) -> Result<CreateIndex, Error> {
        let if_not_exists = self.takes(&["if", "not", "exists"]);
        let name = self.index_name()?;
        if !self.takes(&["on"]) {
            return Err(self.wrong("ON \"bucket/prefix/\""));
        }
        let place = self.place();
        let table = Place::parse(&self.name("\"bucket/prefix/\"")?).map_err(|error| error.at(place))?;
        let Keys::Prefix(prefix) = table.keys else {
            return Err(Error::sql("an index is on a prefix, which is empty or ends in a slash").at(place));
        };
        let kind = if self.takes(&["using"]) {
            match () {
                () if self.takes(&["btree"]) => IndexKind::BTree,
                () if self.takes(&["hash"]) => IndexKind::Hash,
                () => return Err(self.wrong("BTREE or HASH")),
            }
        } else {
            IndexKind::BTree
        };
        let expressions = self.expressions()?;
        self.end()?;
        Ok(CreateIndex { name, bucket: table.bucket, prefix, kind, unique, if_not_exists, expressions })
    }

    fn remove(&mut self) -> Result<DropIndex, Error> {
        let if_exists = self.takes(&["if", "exists"]);
        let name = self.index_name()?;
        if !self.takes(&["on"]) {
            return Err(self.wrong("ON \"bucket/prefix/\""));
        }
        let place = self.place();
        let table = Place::parse(&self.name("\"bucket/prefix/\"")?).map_err(|error| error.at(place))?;
        self.end()?;
        Ok(DropIndex { name, bucket: table.bucket, if_exists })
    }

    fn expressions(&mut self) -> Result<Vec<Expression>, Error> {
        if self.peek() != Some(&Token::LParen) {
            return Err(self.wrong("( and what is indexed"));
        }
        self.at += 1;
        let mut found = Vec::new();
        let (mut depth, mut from) = (0_usize, self.at);
        loop {
            match self.peek().ok_or_else(|| self.wrong("a closing parenthesis"))? {
                Token::Comma | Token::RParen if depth == 0 => {
                    found.push(expression(self.sql, &self.tokens[from..self.at], self.place())?);
                    from = self.at + 1;
                    if self.peek() == Some(&Token::RParen) {
                        self.at += 1;
                        break;
                    }
                }
                Token::LParen | Token::LBracket => depth += 1,
                Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
        if found.len() > EXPRESSIONS_MAX {
            return Err(Error::sql(format!("an index has at most {EXPRESSIONS_MAX} expressions")));
        }
        Ok(found)
    }
}

fn expression(sql: &str, tokens: &[TokenWithSpan], place: Location) -> Result<Expression, Error> {
    let place = tokens.first().map_or(place, |token| token.span.start);
    let wrong = || {
        let wanted = "an index is on key, split_part(key, '/', n), size, last_modified, etag, content_type, \
                      metadata['x'], tags['x'], a column, or a path such as $.customer.id";
        Error::sql(wanted).at(place)
    };
    let kinds: Vec<&Token> = tokens.iter().map(|token| &token.token).collect();
    match kinds.as_slice() {
        [Token::Word(word)] if word.quote_style.is_none() => Ok(plain(&word.value)),
        [Token::Word(word)] => Ok(Expression::Field(vec![Step::Name(word.value.clone())])),
        [Token::Word(map), Token::LBracket, Token::SingleQuotedString(name), Token::RBracket] => {
            match map.value.to_ascii_lowercase().as_str() {
                "metadata" | "_metadata" => Ok(Expression::Metadata(name.to_lowercase())),
                "tags" | "_tags" => Ok(Expression::Tag(name.clone())),
                _ => Err(wrong()),
            }
        }
        [
            Token::Word(function),
            Token::LParen,
            Token::Word(key),
            Token::Comma,
            Token::SingleQuotedString(slash),
            Token::Comma,
            Token::Number(part, _),
            Token::RParen,
        ] if function.value.eq_ignore_ascii_case("split_part")
            && plain(&key.value) == Expression::Key
            && slash == "/" =>
        {
            let part: u16 = part.parse().map_err(|_| wrong())?;
            if part == 0 { Err(wrong()) } else { Ok(Expression::KeyPart(part)) }
        }
        [Token::Placeholder(_), ..] => {
            let text = text_of(sql, tokens);
            parse_path(text).map(Expression::Field).map_err(|error| Error::sql(error.to_string()).at(place))
        }
        _ => Err(wrong()),
    }
}

/// A word without quotes: an attribute of the object, or a column.
fn plain(word: &str) -> Expression {
    match word.to_ascii_lowercase().as_str() {
        "key" | "_key" => Expression::Key,
        "size" | "_size" => Expression::Size,
        "last_modified" | "_last_modified" => Expression::LastModified,
        "etag" | "_etag" => Expression::Etag,
        "content_type" | "_content_type" => Expression::ContentType,
        _ => Expression::Field(vec![Step::Name(word.to_owned())]),
    }
}

/// The text between the first token and the last.
fn text_of<'a>(sql: &'a str, tokens: &[TokenWithSpan]) -> &'a str {
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return "" };
    let (from, to) = (offset(sql, first.span.start), offset(sql, last.span.end));
    sql.get(from..to).unwrap_or_default()
}

/// Where a location lies in the text, in bytes.
fn offset(sql: &str, location: Location) -> usize {
    let (mut line, mut column) = (1, 1);
    for (at, char) in sql.char_indices() {
        if (line, column) == (location.line, location.column) {
            return at;
        }
        if char == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    sql.len()
}

#[cfg(test)]
mod tests {
    use super::super::statement;
    use super::*;

    #[test]
    fn an_index_is_created() {
        let name = |name: &str| Step::Name(name.to_owned());
        let check = |list: &str, expected: &[Expression]| {
            let sql = format!("CREATE INDEX by_x ON \"b/p/\" ({list})");
            let Parsed::CreateIndex(create) = statement::parse(&sql).unwrap() else { panic!("{sql}") };
            assert_eq!((create.bucket.as_str(), create.prefix.as_str()), ("b", "p/"));
            assert_eq!(create.expressions, expected, "{sql}");
        };
        check("City", &[Expression::Field(vec![name("City")])]);
        check("key, SIZE, last_modified", &[Expression::Key, Expression::Size, Expression::LastModified]);
        check("\"key\"", &[Expression::Field(vec![name("key")])]);
        check("metadata['X'], tags['T']", &[Expression::Metadata("x".into()), Expression::Tag("T".into())]);
        check("split_part(key, '/', 2), etag", &[Expression::KeyPart(2), Expression::Etag]);
        check(
            "$.customer.id, $.items[0]['odd, name)'],\n $.é",
            &[
                Expression::Field(vec![name("customer"), name("id")]),
                Expression::Field(vec![name("items"), Step::Element(0), name("odd, name)")]),
                Expression::Field(vec![name("é")]),
            ],
        );
        let Parsed::CreateIndex(create) =
            statement::parse("create unique index if not exists \"I\" on b using hash (a);").unwrap()
        else {
            panic!("it creates an index")
        };
        assert_eq!((create.name.as_str(), create.prefix.as_str(), create.kind), ("I", "", IndexKind::Hash));
        assert!(create.unique && create.if_not_exists);
    }

    #[test]
    fn an_index_is_dropped() {
        let Parsed::DropIndex(remove) = statement::parse("DROP INDEX IF EXISTS by_x ON \"b/p/\"").unwrap() else {
            panic!("it drops an index")
        };
        assert_eq!(remove, DropIndex { name: "by_x".into(), bucket: "b".into(), if_exists: true });
    }

    #[test]
    fn what_is_no_index_is_refused_with_its_place() {
        for sql in [
            "CREATE INDEX ON \"b/\" (a)",
            "CREATE INDEX i ON \"b/p\" (a)",
            "CREATE INDEX i ON \"b/*.csv\" (a)",
            "CREATE INDEX i ON \"b/\" ()",
            "CREATE INDEX i ON \"b/\" (a",
            "CREATE INDEX i ON \"b/\" USING GIN (a)",
            "CREATE INDEX i ON \"b/\" (lower(a))",
            "CREATE INDEX i ON \"b/\" (a) WHERE b",
            "CREATE INDEX i ON \"b/\" ($.a[*])",
            "CREATE INDEX i ON \"b/\" (a,b,c,d,e,f,g,h,i)",
            "DROP INDEX i",
        ] {
            let error = statement::parse(sql).unwrap_err();
            assert_eq!(error.code, "InvalidSql", "{sql}");
        }
        let error = statement::parse("CREATE INDEX i ON b (a,\n  a + 1)").unwrap_err();
        assert_eq!(error.position.map(|place| (place.line, place.column)), Some((2, 3)));
    }
}
