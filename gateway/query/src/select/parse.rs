//! Reads statements. Source: Amazon S3 User Guide, "SQL reference for Amazon S3 Select".
//!
//! ```text
//! SELECT * | expr [[AS] name], ...  FROM S3Object[path] [[AS] alias]  [WHERE expr]  [LIMIT n]
//! ```

use rust_decimal::Decimal;

use super::error::Error;
use super::eval::{Function, literal_time};
use super::like::Pattern;
use super::syntax::{Aggregate, AggregateKind, Column, Expr, Item, Like, Statement, Step, Type};
use super::timestamp::{Part, Timestamp};
use super::token::{Kind, Token, tokens};
use super::value::{Arithmetic, Number, Value};
use crate::compare::Compare;

/// Bytes of a statement. Source: S3 API, SelectObjectContent.
pub const EXPRESSION_BYTES_MAX: usize = 256 << 10;
/// Levels of an expression.
const NESTING_MAX: usize = 200;
/// Links of all chains of operators of a statement: a bound of its depth, together with the levels.
const LINKS_MAX: usize = 1000;
/// Steps of a path.
const STEPS_MAX: usize = 32;
/// Columns that a statement may name.
const COLUMNS_MAX: usize = 4096;

/// Words that are no names unless they stand in quotes.
const RESERVED: &[&str] = &[
    "and",
    "as",
    "between",
    "by",
    "case",
    "cast",
    "distinct",
    "else",
    "end",
    "escape",
    "except",
    "exists",
    "from",
    "full",
    "group",
    "having",
    "in",
    "inner",
    "intersect",
    "is",
    "join",
    "left",
    "like",
    "limit",
    "missing",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "outer",
    "right",
    "select",
    "then",
    "union",
    "when",
    "where",
    "false",
    "true",
];

/// The statement that a text is.
///
/// # Errors
/// By AWS's codes, with the character at which it does not go on.
pub(super) fn parse(text: &str, now: Timestamp) -> Result<Statement, Error> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(Error::new("ExpressionTooLong", "the SQL expression has more than 262,144 bytes"));
    }
    let tokens = tokens(text)?;
    let (alias, from, after_from) = from_of(&tokens)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        depth: 0,
        links: 0,
        aliases: vec![alias],
        columns: Vec::new(),
        aggregates: Vec::new(),
        in_aggregate: false,
        now,
    };
    parser.keyword("select")?;
    let items = parser.items()?;
    parser.at = after_from;
    let filter = if parser.take_word("where") { Some(parser.filter()?) } else { None };
    let limit = if parser.take_word("limit") { Some(parser.limit()?) } else { None };
    parser.end()?;
    let Parser { columns, aggregates, .. } = parser;
    let statement = Statement { items, from, filter, limit, columns, aggregates };
    check_aggregates(&statement)?;
    Ok(statement)
}

/// The names of what stands after `FROM` are needed to read what stands before it: the alias, the path, and where the
/// clause ends.
fn from_of(tokens: &[Token]) -> Result<(String, Vec<Step>, usize), Error> {
    let select = matches!(&tokens[0].kind, Kind::Word(word) if word.eq_ignore_ascii_case("select"));
    if !select {
        return Err(Error::new(
            "ParseUnsupportedSyntax",
            format!("a statement begins with SELECT, not with {}", tokens[0].kind),
        ));
    }
    let mut depth = 0i64;
    let at = tokens.iter().position(|token| match &token.kind {
        Kind::Symbol("(") => {
            depth += 1;
            false
        }
        Kind::Symbol(")") => {
            depth -= 1;
            false
        }
        Kind::Word(word) => depth == 0 && word.eq_ignore_ascii_case("from"),
        _ => false,
    });
    let at = at.ok_or_else(|| Error::new("ParseSelectMissingFrom", "SELECT has no FROM"))?;
    let mut parser = Parser::of(tokens, at + 1);
    match parser.peek() {
        Kind::Word(word) | Kind::Name(word) if word.eq_ignore_ascii_case("s3object") => parser.at += 1,
        other => {
            return Err(Error::new("InvalidTableAlias", format!("FROM names S3Object, not {other}")));
        }
    }
    let steps = parser.steps(true)?;
    // The first `[*]` stands for the records of the object, as no path does.
    let implied = steps.iter().rev().find_map(|step| match step {
        Step::Name { name, .. } => Some(name.clone()),
        _ => None,
    });
    let alias = if parser.take_word("as") { Some(parser.name()?) } else { parser.take_name() };
    if parser.take(",") {
        return Err(Error::new("ParseUnsupportedSyntax", "FROM names one table"));
    }
    let steps = if steps.first() == Some(&Step::All) { steps[1..].to_vec() } else { steps };
    Ok((alias.or(implied).unwrap_or_else(|| "s3object".to_owned()), steps, parser.at))
}

/// Beside an aggregate nothing stands that has one value for each record.
fn check_aggregates(statement: &Statement) -> Result<(), Error> {
    if statement.aggregates.is_empty() {
        return Ok(());
    }
    let mixed = match &statement.items {
        None => true,
        Some(items) => items.iter().any(|item| has_column(&item.value)),
    };
    if mixed {
        let what = "columns and aggregate functions are not selected together, as there is no GROUP BY";
        return Err(Error::new("ParseUnsupportedSyntax", what));
    }
    Ok(())
}

fn has_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Literal(_) | Expr::Aggregate(_) => false,
        Expr::And(list) | Expr::Or(list) | Expr::Call(_, list) => list.iter().any(has_column),
        Expr::Not(a) | Expr::Negate(a) | Expr::IsNull(a) | Expr::IsMissing(a) | Expr::Cast(a, _) => has_column(a),
        Expr::Compare(_, a, b) | Expr::Arithmetic(_, a, b) | Expr::Concat(a, b) => has_column(a) || has_column(b),
        Expr::In(a, list) => has_column(a) || list.iter().any(has_column),
        Expr::Like(a, like) => {
            has_column(a)
                || match like {
                    Like::Known(_) => false,
                    Like::Computed(pattern, escape) => {
                        has_column(pattern) || escape.as_ref().is_some_and(|escape| has_column(escape))
                    }
                }
        }
        Expr::Between(a, b, c) => [a, b, c].into_iter().any(|expr| has_column(expr)),
        Expr::Case(operand, cases, rest) => {
            operand.as_ref().is_some_and(|operand| has_column(operand))
                || has_column(rest)
                || cases.iter().any(|(a, b)| has_column(a) || has_column(b))
        }
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    links: usize,
    /// Names of the record.
    aliases: Vec<String>,
    columns: Vec<Column>,
    aggregates: Vec<Aggregate>,
    in_aggregate: bool,
    now: Timestamp,
}

impl<'a> Parser<'a> {
    fn of(tokens: &'a [Token], at: usize) -> Self {
        let now = Timestamp::of_days(0).expect("the epoch is a day");
        let (aliases, columns, aggregates) = (Vec::new(), Vec::new(), Vec::new());
        Self { tokens, at, depth: 0, links: 0, aliases, columns, aggregates, in_aggregate: false, now }
    }

    fn peek(&self) -> &'a Kind {
        &self.tokens[self.at.min(self.tokens.len() - 1)].kind
    }

    fn peek_word(&self, word: &str) -> bool {
        matches!(self.peek(), Kind::Word(next) if next.eq_ignore_ascii_case(word))
    }

    fn after_is(&self, symbol: &str) -> bool {
        matches!(self.tokens.get(self.at + 1).map(|token| &token.kind), Some(Kind::Symbol(next)) if *next == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Kind::Symbol(next) if *next == symbol);
        self.at += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word(word);
        self.at += usize::from(found);
        found
    }

    fn error(&self, code: &'static str, expected: &str) -> Error {
        let at = self.tokens[self.at.min(self.tokens.len() - 1)].at;
        Error::new(code, format!("expected {expected}, found {} at character {at}", self.peek()))
    }

    fn symbol(&mut self, symbol: &'static str) -> Result<(), Error> {
        let code = match symbol {
            "(" => "ParseExpectedLeftParenBuiltinFunctionCall",
            ")" => "ParseExpectedRightParenBuiltinFunctionCall",
            _ => "ParseExpectedTokenType",
        };
        if self.take(symbol) { Ok(()) } else { Err(self.error(code, symbol)) }
    }

    fn keyword(&mut self, word: &str) -> Result<(), Error> {
        if self.take_word(word) {
            return Ok(());
        }
        Err(self.error("ParseExpectedKeyword", &word.to_ascii_uppercase()))
    }

    fn end(&self) -> Result<(), Error> {
        match self.peek() {
            Kind::End => Ok(()),
            Kind::Word(word)
                if ["group", "order", "having", "join", "inner", "left", "union", "offset"]
                    .contains(&word.to_ascii_lowercase().as_str()) =>
            {
                Err(self.error("ParseUnsupportedSyntax", "WHERE, LIMIT or the end: S3 Select has no such clause"))
            }
            _ => Err(self.error("ParseUnexpectedToken", "the end of the statement")),
        }
    }

    /// The name that follows, if one does.
    fn take_name(&mut self) -> Option<String> {
        let name = match self.peek() {
            Kind::Word(word) if !RESERVED.contains(&word.to_ascii_lowercase().as_str()) => word.clone(),
            Kind::Name(name) => name.clone(),
            _ => return None,
        };
        self.at += 1;
        Some(name)
    }

    fn name(&mut self) -> Result<String, Error> {
        self.take_name().ok_or_else(|| self.error("ParseExpectedIdentForAlias", "a name"))
    }

    fn limit(&mut self) -> Result<u64, Error> {
        let limit = match self.peek() {
            Kind::Number(number) => number.parse().ok(),
            _ => None,
        };
        let limit = limit.ok_or_else(|| self.error("ParseUnexpectedToken", "a number of records"))?;
        self.at += 1;
        Ok(limit)
    }

    fn filter(&mut self) -> Result<Expr, Error> {
        let before = self.aggregates.len();
        let filter = self.expr()?;
        if self.aggregates.len() > before {
            return Err(Error::new("ParseUnsupportedSyntax", "WHERE has no aggregate functions"));
        }
        Ok(filter)
    }

    fn items(&mut self) -> Result<Option<Vec<Item>>, Error> {
        if self.peek_word("distinct") || self.peek_word("all") {
            return Err(self.error("ParseUnsupportedSelect", "what is selected: S3 Select has no DISTINCT and ALL"));
        }
        if self.take("*") {
            return self.keyword("from").map(|()| None);
        }
        // alias.*
        let is_alias = matches!(self.peek(), Kind::Word(word) | Kind::Name(word) if self.is_alias(word));
        let star = matches!(self.tokens.get(self.at + 2).map(|token| &token.kind), Some(Kind::Symbol("*")));
        if is_alias && self.after_is(".") && star {
            self.at += 3;
            return self.keyword("from").map(|()| None);
        }
        let mut items = Vec::new();
        loop {
            if self.peek_word("from") {
                return Err(self.error("ParseEmptySelect", "what is selected"));
            }
            let value = self.expr()?;
            let name = if self.take_word("as") { Some(self.name()?) } else { self.take_name() };
            let name = name.unwrap_or_else(|| self.name_of(&value, items.len() + 1));
            items.push(Item { name, value });
            if !self.take(",") {
                break;
            }
        }
        self.keyword("from")?;
        Ok(Some(items))
    }

    fn is_alias(&self, name: &str) -> bool {
        self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name)) || name.eq_ignore_ascii_case("s3object")
    }

    /// The name of a value that has none of its own: that of its last step, or its number.
    fn name_of(&self, value: &Expr, number: usize) -> String {
        let step = match value {
            Expr::Column(column) if self.columns[*column].steps.is_empty() => return self.aliases[0].clone(),
            Expr::Column(column) => self.columns[*column].steps.last(),
            _ => None,
        };
        match step {
            Some(Step::Name { name, .. }) => name.clone(),
            _ => format!("_{number}"),
        }
    }

    /// Steps after a name.
    fn steps(&mut self, all: bool) -> Result<Vec<Step>, Error> {
        let mut steps = Vec::new();
        loop {
            if steps.len() > STEPS_MAX {
                return Err(Error::new("ParseUnsupportedSyntax", "a path has at most 32 steps"));
            }
            if self.take(".") {
                match self.peek() {
                    Kind::Word(name) => steps.push(Step::Name { name: name.clone(), quoted: false }),
                    Kind::Name(name) => steps.push(Step::Name { name: name.clone(), quoted: true }),
                    Kind::Symbol("*") if all => steps.push(Step::All),
                    _ => return Err(self.error("ParseInvalidPathComponent", "a name after the point")),
                }
                self.at += 1;
            } else if self.take("[") {
                match self.peek() {
                    Kind::Symbol("*") if all => steps.push(Step::All),
                    Kind::Text(name) => steps.push(Step::Name { name: name.clone(), quoted: true }),
                    Kind::Number(number) => {
                        let number = number.parse().map_err(|_| self.error("ParseInvalidPathComponent", "a number"))?;
                        steps.push(Step::Element(number));
                    }
                    _ => return Err(self.error("ParseInvalidPathComponent", "a number or a name in brackets")),
                }
                self.at += 1;
                self.symbol("]")?;
            } else {
                return Ok(steps);
            }
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(Error::new("ParseUnsupportedSyntax", "the expression is nested too deeply"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Counts the links of chains such as `a + b + c`, each of which is a level of its own behind the first.
    fn chained(&mut self, first: &mut bool) -> Result<(), Error> {
        if !std::mem::take(first) {
            self.links += 1;
        }
        if self.links > LINKS_MAX {
            return Err(Error::new("ParseUnsupportedSyntax", "the expression has too many operators in chains"));
        }
        Ok(())
    }

    fn expr(&mut self) -> Result<Expr, Error> {
        self.deeper(|parser| {
            let mut list = vec![parser.conjunction()?];
            while parser.take_word("or") {
                list.push(parser.conjunction()?);
            }
            Ok(if list.len() == 1 { list.remove(0) } else { Expr::Or(list) })
        })
    }

    fn conjunction(&mut self) -> Result<Expr, Error> {
        let mut list = vec![self.negation()?];
        while self.take_word("and") {
            list.push(self.negation()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expr::And(list) })
    }

    fn negation(&mut self) -> Result<Expr, Error> {
        if self.take_word("not") {
            return self.deeper(|parser| Ok(Expr::Not(Box::new(parser.negation()?))));
        }
        self.predicate()
    }

    fn predicate(&mut self) -> Result<Expr, Error> {
        let mut left = self.sum()?;
        let mut first = true;
        loop {
            let compare = match self.peek() {
                Kind::Symbol("=") => Compare::Equal,
                Kind::Symbol("<>" | "!=") => Compare::NotEqual,
                Kind::Symbol("<") => Compare::Less,
                Kind::Symbol("<=") => Compare::LessOrEqual,
                Kind::Symbol(">") => Compare::Greater,
                Kind::Symbol(">=") => Compare::GreaterOrEqual,
                Kind::Word(_) => match self.word_predicate(left)? {
                    (expr, true) => {
                        left = expr;
                        self.chained(&mut first)?;
                        continue;
                    }
                    (expr, false) => return Ok(expr),
                },
                _ => return Ok(left),
            };
            self.at += 1;
            left = Expr::Compare(compare, Box::new(left), Box::new(self.sum()?));
            self.chained(&mut first)?;
        }
    }

    /// `IS`, `BETWEEN`, `IN`, `LIKE`, and their negations; whether there was one.
    fn word_predicate(&mut self, left: Expr) -> Result<(Expr, bool), Error> {
        let start = self.at;
        if self.take_word("is") {
            let negated = self.take_word("not");
            let expr = if self.take_word("null") {
                Expr::IsNull(Box::new(left))
            } else if self.take_word("missing") {
                Expr::IsMissing(Box::new(left))
            } else {
                return Err(self.error("ParseExpectedKeyword", "NULL or MISSING"));
            };
            return Ok((negate(expr, negated), true));
        }
        let negated = self.take_word("not");
        let expr = if self.take_word("between") {
            let low = self.sum()?;
            self.keyword("and")?;
            let high = self.sum()?;
            Expr::Between(Box::new(left), Box::new(low), Box::new(high))
        } else if self.take_word("in") {
            let close = if self.take("[") { "]" } else { ")" };
            if close == ")" && !self.take("(") {
                return Err(self.error("ParseExpectedTokenType", "a list in parentheses"));
            }
            Expr::In(Box::new(left), self.list(close)?)
        } else if self.take_word("like") {
            let pattern = self.sum()?;
            let escape = if self.take_word("escape") { Some(self.sum()?) } else { None };
            Expr::Like(Box::new(left), like(pattern, escape)?)
        } else {
            self.at = start;
            return Ok((left, false));
        };
        Ok((negate(expr, negated), true))
    }

    fn list(&mut self, close: &'static str) -> Result<Vec<Expr>, Error> {
        let mut list = Vec::new();
        if self.take(close) {
            return Ok(list);
        }
        loop {
            list.push(self.expr()?);
            if !self.take(",") {
                break;
            }
        }
        self.symbol(close)?;
        Ok(list)
    }

    fn sum(&mut self) -> Result<Expr, Error> {
        self.chain(Self::product, |kind| match kind {
            Kind::Symbol("+") => Some(Operator::Arithmetic(Arithmetic::Add)),
            Kind::Symbol("-") => Some(Operator::Arithmetic(Arithmetic::Subtract)),
            Kind::Symbol("||") => Some(Operator::Concat),
            _ => None,
        })
    }

    fn product(&mut self) -> Result<Expr, Error> {
        self.chain(Self::unary, |kind| match kind {
            Kind::Symbol("*") => Some(Operator::Arithmetic(Arithmetic::Multiply)),
            Kind::Symbol("/") => Some(Operator::Arithmetic(Arithmetic::Divide)),
            Kind::Symbol("%") => Some(Operator::Arithmetic(Arithmetic::Remainder)),
            _ => None,
        })
    }

    fn chain(
        &mut self,
        operand: fn(&mut Self) -> Result<Expr, Error>,
        operator: fn(&Kind) -> Option<Operator>,
    ) -> Result<Expr, Error> {
        let mut left = operand(self)?;
        let mut first = true;
        while let Some(operator) = operator(self.peek()) {
            self.at += 1;
            self.chained(&mut first)?;
            let right = Box::new(operand(self)?);
            left = match operator {
                Operator::Arithmetic(operator) => Expr::Arithmetic(operator, Box::new(left), right),
                Operator::Concat => Expr::Concat(Box::new(left), right),
            };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, Error> {
        if self.take("-") {
            return self.deeper(|parser| {
                Ok(match parser.unary()? {
                    Expr::Literal(Value::Int(value)) => match value.checked_neg() {
                        Some(value) => Expr::Literal(Value::Int(value)),
                        None => Expr::Literal(Value::Decimal(-Decimal::from(value))),
                    },
                    Expr::Literal(Value::Decimal(value)) => Expr::Literal(Value::Decimal(-value)),
                    Expr::Literal(Value::Float(value)) => Expr::Literal(Value::Float(-value)),
                    other => Expr::Negate(Box::new(other)),
                })
            });
        }
        if self.take("+") {
            return self.deeper(Self::unary);
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Expr, Error> {
        let literal = |value| Ok(Expr::Literal(value));
        match self.peek() {
            Kind::Number(text) => {
                self.at += 1;
                let number = Number::parse(text);
                literal(number.ok_or_else(|| self.error("LexerInvalidLiteral", "a number"))?.value())
            }
            Kind::Text(text) => {
                self.at += 1;
                literal(Value::Text(text.clone().into()))
            }
            Kind::Ion(text) => {
                self.at += 1;
                literal(literal_time(text)?)
            }
            Kind::Symbol("(") => {
                self.at += 1;
                let inner = self.expr()?;
                if self.take(")") {
                    return Ok(inner);
                }
                Err(self.error("ParseExpectedTokenType", ")"))
            }
            Kind::Word(word) if self.after_is("(") => self.call(word),
            Kind::Word(word) => {
                let keyword = word.to_ascii_lowercase();
                let value = match keyword.as_str() {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    "null" => Value::Null,
                    "missing" => Value::Missing,
                    "case" => {
                        self.at += 1;
                        return self.deeper(Self::case);
                    }
                    _ if RESERVED.contains(&keyword.as_str()) => {
                        return Err(self.error("ParseUnexpectedKeyword", "a value"));
                    }
                    _ => return self.column(),
                };
                self.at += 1;
                literal(value)
            }
            Kind::Name(_) => self.column(),
            Kind::Symbol("*") => Err(self.error("ParseAsteriskIsNotAloneInSelectList", "a value: * stands alone")),
            Kind::Symbol(_) | Kind::End => Err(self.error("ParseUnexpectedToken", "a value")),
        }
    }

    fn column(&mut self) -> Result<Expr, Error> {
        let (first, is_alias) = match self.peek() {
            Kind::Name(name) => (Step::Name { name: name.clone(), quoted: true }, self.is_alias(name)),
            Kind::Word(name) => (Step::Name { name: name.clone(), quoted: false }, self.is_alias(name)),
            _ => return Err(self.error("ParseUnexpectedToken", "a column")),
        };
        self.at += 1;
        let mut steps = self.steps(false)?;
        if !is_alias {
            steps.insert(0, first);
        }
        let column = Column { steps };
        let number = self.columns.iter().position(|known| *known == column).unwrap_or_else(|| {
            self.columns.push(column);
            self.columns.len() - 1
        });
        if self.columns.len() > COLUMNS_MAX {
            return Err(Error::new("ParseUnsupportedSyntax", "a statement names at most 4096 columns"));
        }
        Ok(Expr::Column(number))
    }

    fn case(&mut self) -> Result<Expr, Error> {
        let operand = if self.peek_word("when") { None } else { Some(self.expr()?) };
        let mut cases = Vec::new();
        while self.take_word("when") {
            let when = self.expr()?;
            if !self.take_word("then") {
                return Err(self.error("ParseExpectedKeyword", "THEN"));
            }
            cases.push((when, self.expr()?));
        }
        if cases.is_empty() {
            return Err(self.error("ParseExpectedWhenClause", "WHEN"));
        }
        let rest = if self.take_word("else") { self.expr()? } else { Expr::Literal(Value::Null) };
        self.keyword("end")?;
        Ok(Expr::Case(operand.map(Box::new), cases, Box::new(rest)))
    }

    /// A function; the parser stands at its name.
    fn call(&mut self, name: &str) -> Result<Expr, Error> {
        let name = name.to_ascii_lowercase();
        let aggregate = match name.as_str() {
            "count" => Some(AggregateKind::Count),
            "sum" => Some(AggregateKind::Sum),
            "avg" => Some(AggregateKind::Average),
            "min" => Some(AggregateKind::Min),
            "max" => Some(AggregateKind::Max),
            _ => None,
        };
        if let Some(kind) = aggregate {
            return self.aggregate(kind);
        }
        if RESERVED.contains(&name.as_str()) && name != "cast" {
            return Err(self.error("ParseUnexpectedKeyword", "a value"));
        }
        self.at += 2;
        self.deeper(|parser| match name.as_str() {
            "cast" => parser.cast(),
            "trim" => parser.trim(),
            "substring" => parser.substring(),
            "extract" => parser.extract(),
            "date_add" | "date_diff" => {
                let part = parser.part()?;
                let difference = name == "date_diff";
                if !parser.take(",") {
                    return Err(parser.error("ParseExpectedTokenType", ","));
                }
                let arguments = parser.list(")")?;
                if matches!(part, Part::TimezoneHour | Part::TimezoneMinute) {
                    return Err(Error::new("ParseExpectedDatePart", "a time zone is no part to compute with"));
                }
                arity(&name, &arguments, 2..=2)?;
                Ok(Expr::Call(if difference { Function::DateDiff(part) } else { Function::DateAdd(part) }, arguments))
            }
            "utcnow" => {
                arity(&name, &parser.list(")")?, 0..=0)?;
                Ok(Expr::Literal(Value::Time(parser.now)))
            }
            _ => {
                let (function, arguments) = match name.as_str() {
                    "coalesce" => (Function::Coalesce, 1..=usize::MAX),
                    "nullif" => (Function::NullIf, 2..=2),
                    "char_length" | "character_length" => (Function::CharLength, 1..=1),
                    "lower" => (Function::Lower, 1..=1),
                    "upper" => (Function::Upper, 1..=1),
                    "to_string" => (Function::ToString, 2..=2),
                    "to_timestamp" => (Function::ToTimestamp, 1..=1),
                    _ => return Err(Error::new("UnsupportedFunction", format!("there is no function {name}"))),
                };
                let list = parser.list(")")?;
                arity(&name, &list, arguments)?;
                Ok(Expr::Call(function, list))
            }
        })
    }

    fn aggregate(&mut self, kind: AggregateKind) -> Result<Expr, Error> {
        if self.in_aggregate {
            return Err(Error::new("ParseUnsupportedSyntax", "an aggregate function has no aggregate function inside"));
        }
        self.at += 2;
        let argument = if self.take("*") {
            if kind != AggregateKind::Count {
                return Err(Error::new("ParseUnsupportedCallWithStar", "only COUNT takes *"));
            }
            None
        } else if self.peek_word("distinct") || self.peek_word("all") {
            return Err(self.error("ParseUnsupportedSyntax", "a value: S3 Select has no DISTINCT"));
        } else {
            self.in_aggregate = true;
            let argument = self.expr();
            self.in_aggregate = false;
            Some(argument?)
        };
        if self.take(",") {
            return Err(Error::new("ParseNonUnaryAgregateFunctionCall", "an aggregate function takes one argument"));
        }
        self.symbol(")")?;
        self.aggregates.push(Aggregate { kind, argument });
        Ok(Expr::Aggregate(self.aggregates.len() - 1))
    }

    fn cast(&mut self) -> Result<Expr, Error> {
        let value = self.expr()?;
        self.keyword("as")?;
        let name = match self.peek() {
            Kind::Word(word) => word.to_ascii_lowercase(),
            _ => return Err(self.error("ParseExpectedTypeName", "a type")),
        };
        let mut kind = match name.as_str() {
            "bool" | "boolean" => Type::Bool,
            "int" | "integer" | "bigint" | "smallint" => Type::Int,
            "float" | "double" | "real" => Type::Float,
            "decimal" | "numeric" => Type::Decimal(None),
            "string" | "varchar" | "char" | "text" => Type::Text,
            "timestamp" => Type::Timestamp,
            _ => {
                return Err(self.error("ParseExpectedTypeName", "a type: BOOL, INT, FLOAT, DECIMAL, STRING, TIMESTAMP"));
            }
        };
        self.at += 1;
        if self.take("(") {
            let mut numbers = Vec::new();
            loop {
                match self.peek() {
                    Kind::Number(number) => numbers.push(number.parse::<u32>().ok()),
                    _ => return Err(self.error("ParseExpectedNumber", "a number")),
                }
                self.at += 1;
                if !self.take(",") {
                    break;
                }
            }
            self.symbol(")")?;
            match (&mut kind, &numbers[..]) {
                (Type::Decimal(scale), [Some(1..=38)]) => *scale = Some(0),
                (Type::Decimal(scale), [Some(1..=38), Some(digits @ 0..=28)]) => *scale = Some(*digits),
                (Type::Text, [Some(_)]) => {}
                _ => return Err(Error::new("ParseInvalidTypeParam", format!("{name} has no such parameters"))),
            }
        }
        self.symbol(")")?;
        Ok(Expr::Cast(Box::new(value), kind))
    }

    /// `TRIM([[LEADING|TRAILING|BOTH] [characters] FROM] text)`
    fn trim(&mut self) -> Result<Expr, Error> {
        let (mut leading, mut trailing, mut named) = (true, true, true);
        if self.take_word("leading") {
            trailing = false;
        } else if self.take_word("trailing") {
            leading = false;
        } else {
            named = self.take_word("both");
        }
        let function = Function::Trim { leading, trailing };
        if named && self.take_word("from") {
            let arguments = vec![self.expr()?];
            return self.symbol(")").map(|()| Expr::Call(function, arguments));
        }
        let mut arguments = vec![self.expr()?];
        if self.take_word("from") {
            arguments.insert(0, self.expr()?);
        } else if named {
            return Err(self.error("ParseExpectedKeyword", "FROM"));
        }
        self.symbol(")").map(|()| Expr::Call(function, arguments))
    }

    /// `SUBSTRING(text, start [, length])`, or with `FROM` and `FOR` between.
    fn substring(&mut self) -> Result<Expr, Error> {
        let mut arguments = vec![self.expr()?];
        let words = self.take_word("from");
        if !words && !self.take(",") {
            return Err(self.error("ParseExpectedArgumentDelimiter", "FROM or a comma"));
        }
        arguments.push(self.expr()?);
        if if words { self.take_word("for") } else { self.take(",") } {
            arguments.push(self.expr()?);
        }
        self.symbol(")").map(|()| Expr::Call(Function::Substring, arguments))
    }

    fn extract(&mut self) -> Result<Expr, Error> {
        let part = self.part()?;
        self.keyword("from")?;
        let arguments = vec![self.expr()?];
        self.symbol(")").map(|()| Expr::Call(Function::Extract(part), arguments))
    }

    fn part(&mut self) -> Result<Part, Error> {
        let part = match self.peek() {
            Kind::Word(word) => Part::parse(word),
            _ => None,
        };
        let part = part.ok_or_else(|| self.error("ParseExpectedDatePart", "a part of a time, such as YEAR"))?;
        self.at += 1;
        Ok(part)
    }
}

enum Operator {
    Arithmetic(Arithmetic),
    Concat,
}

fn negate(expr: Expr, negated: bool) -> Expr {
    if negated { Expr::Not(Box::new(expr)) } else { expr }
}

fn like(pattern: Expr, escape: Option<Expr>) -> Result<Like, Error> {
    let escape_text = match &escape {
        None => Some(None),
        Some(Expr::Literal(Value::Text(escape))) => Some(Some(&escape[..])),
        Some(_) => None,
    };
    match (&pattern, escape_text) {
        (Expr::Literal(Value::Text(pattern)), Some(escape)) => Pattern::parse(pattern, escape).map(Like::Known),
        _ => Ok(Like::Computed(Box::new(pattern), escape.map(Box::new))),
    }
}

fn arity(name: &str, arguments: &[Expr], allowed: std::ops::RangeInclusive<usize>) -> Result<(), Error> {
    if allowed.contains(&arguments.len()) {
        return Ok(());
    }
    Err(Error::new("EvaluatorInvalidArguments", format!("{name} does not take {} arguments", arguments.len())))
}
