//! Columns in the tree of a statement: `*` without what is hidden, and names in the case that the objects write them.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{
    self, ExcludeSelectItem, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, TableFactor, TableWithJoins, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};

use super::error::Error;
use super::tables::normal;

/// What the tables of a statement have, by their names in the tree.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Columns that `*` does not show.
    pub(super) hidden: HashMap<String, Vec<String>>,
    pub(super) schemas: Vec<SchemaRef>,
}

/// Rewrites the columns.
///
/// # Errors
/// `InvalidSql` for a natural join of tables with hidden columns, which would be joined too.
pub(super) fn rewrite(statement: &mut ast::Statement, known: &Known) -> Result<(), Error> {
    if known.hidden.values().any(|hidden| !hidden.is_empty())
        && let ControlFlow::Break(error) = statement.visit(&mut Stars { known })
    {
        return Err(error);
    }
    let spellings = spellings(known);
    if !spellings.is_empty() {
        let mut spell = Spell { spellings, aliases: HashSet::new() };
        // Nothing of it breaks.
        let _ = statement.visit(&mut spell);
    }
    Ok(())
}

struct Stars<'a> {
    known: &'a Known,
}

/// A table of a `FROM`, as `*` sees it.
struct Seen {
    name: Option<Ident>,
    hidden: Vec<String>,
}

impl VisitorMut for Stars<'_> {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        let mut seen = Vec::new();
        for from in &select.from {
            if let Err(error) = self.see(from, &mut seen) {
                return ControlFlow::Break(error);
            }
        }
        if seen.iter().all(|table| table.hidden.is_empty()) {
            return ControlFlow::Continue(());
        }
        let items = std::mem::take(&mut select.projection);
        select.projection = items.into_iter().flat_map(|item| without_hidden(item, &seen)).collect();
        ControlFlow::Continue(())
    }
}

impl Stars<'_> {
    fn see(&self, from: &TableWithJoins, seen: &mut Vec<Seen>) -> Result<(), Error> {
        self.see_factor(&from.relation, seen)?;
        for join in &from.joins {
            self.see_join(join, seen)?;
        }
        Ok(())
    }

    fn see_join(&self, join: &Join, seen: &mut Vec<Seen>) -> Result<(), Error> {
        let mut right = Vec::new();
        self.see_factor(&join.relation, &mut right)?;
        match &join.join_operator {
            JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::Anti(_) | JoinOperator::LeftAnti(_) => {
                return Ok(());
            }
            JoinOperator::RightSemi(_) | JoinOperator::RightAnti(_) => seen.clear(),
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
            | JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint) => match constraint {
                JoinConstraint::Using(columns) => {
                    // A column of USING shows once.
                    let names = columns.iter().filter_map(|name| name.0.last()?.as_ident().map(normal));
                    let names: Vec<String> = names.collect();
                    right.iter_mut().for_each(|table| {
                        let more = names.iter().filter(|name| !table.hidden.contains(name)).cloned();
                        table.hidden.extend(more.collect::<Vec<_>>());
                    });
                }
                JoinConstraint::Natural if right.iter().chain(&*seen).any(|table| !table.hidden.is_empty()) => {
                    return Err(Error::sql(
                        "a natural join would join hidden columns too: name the columns with USING",
                    ));
                }
                _ => {}
            },
            _ => {}
        }
        seen.append(&mut right);
        Ok(())
    }

    fn see_factor(&self, factor: &TableFactor, seen: &mut Vec<Seen>) -> Result<(), Error> {
        match factor {
            TableFactor::Table { name, alias, .. } => {
                let last = name.0.last().and_then(ObjectNamePart::as_ident).cloned();
                let hidden = match (name.0.len(), &last) {
                    (1, Some(last)) => self.known.hidden.get(&normal(last)).cloned().unwrap_or_default(),
                    _ => Vec::new(),
                };
                seen.push(Seen { name: alias.as_ref().map(|alias| alias.name.clone()).or(last), hidden });
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::Function { alias, .. } => {
                seen.push(Seen { name: alias.as_ref().map(|alias| alias.name.clone()), hidden: Vec::new() });
            }
            TableFactor::NestedJoin { table_with_joins, .. } => self.see(table_with_joins, seen)?,
            _ => seen.push(Seen { name: None, hidden: Vec::new() }),
        }
        Ok(())
    }
}

fn without_hidden(item: SelectItem, seen: &[Seen]) -> Vec<SelectItem> {
    match item {
        SelectItem::Wildcard(options) => match seen {
            [only] => vec![SelectItem::Wildcard(excluding(options, &only.hidden))],
            _ if seen.iter().all(|table| table.name.is_some()) => seen
                .iter()
                .filter_map(|table| {
                    let name = ObjectName::from(vec![table.name.clone()?]);
                    let kind = SelectItemQualifiedWildcardKind::ObjectName(name);
                    Some(SelectItem::QualifiedWildcard(kind, excluding(options.clone(), &table.hidden)))
                })
                .collect(),
            _ => {
                let mut all: Vec<String> = seen.iter().flat_map(|table| table.hidden.clone()).collect();
                all.sort();
                all.dedup();
                vec![SelectItem::Wildcard(excluding(options, &all))]
            }
        },
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
            let wanted = name.0.last().and_then(ObjectNamePart::as_ident).map(normal);
            let table = seen.iter().find(|table| table.name.as_ref().map(normal) == wanted);
            let hidden = table.map(|table| table.hidden.as_slice()).unwrap_or_default();
            let options = excluding(options, hidden);
            vec![SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)]
        }
        other => vec![other],
    }
}

fn excluding(mut options: WildcardAdditionalOptions, hidden: &[String]) -> WildcardAdditionalOptions {
    if hidden.is_empty() {
        return options;
    }
    let mut names = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    for hidden in hidden {
        let said = names
            .iter()
            .any(|name| name.0.last().and_then(ObjectNamePart::as_ident).map(normal).as_ref() == Some(hidden));
        if !said {
            names.push(ObjectName::from(vec![Ident::with_quote('"', hidden)]));
        }
    }
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
    options
}

/// Columns that are not in lower case, by how they are written without quotes. Two that differ in case alone are left out.
fn spellings(known: &Known) -> HashMap<String, String> {
    let mut found: HashMap<String, Option<String>> = HashMap::new();
    for field in known.schemas.iter().flat_map(|schema| schema.fields()) {
        let entry = found.entry(field.name().to_lowercase()).or_insert_with(|| Some(field.name().clone()));
        if entry.as_ref().is_some_and(|name| name != field.name()) {
            *entry = None;
        }
    }
    found.into_iter().filter_map(|(plain, name)| name.filter(|name| *name != plain).map(|name| (plain, name))).collect()
}

struct Spell {
    spellings: HashMap<String, String>,
    /// Names of tables, which stand before a dot.
    aliases: HashSet<String>,
}

impl Spell {
    fn spell(&self, ident: &mut Ident) {
        if ident.quote_style.is_none()
            && let Some(name) = self.spellings.get(&ident.value.to_lowercase())
        {
            name.clone_into(&mut ident.value);
            ident.quote_style = Some('"');
        }
    }
}

impl VisitorMut for Spell {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        self.aliases.extend(named.map(|cte| normal(&cte.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for from in &mut select.from {
            let joined = from.joins.iter_mut().map(|join| &mut join.relation);
            for factor in std::iter::once(&mut from.relation).chain(joined) {
                if let TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } =
                    factor
                {
                    self.aliases.insert(normal(&alias.name));
                }
            }
            for join in &mut from.joins {
                if let JoinOperator::Join(JoinConstraint::Using(columns))
                | JoinOperator::Inner(JoinConstraint::Using(columns))
                | JoinOperator::Left(JoinConstraint::Using(columns))
                | JoinOperator::LeftOuter(JoinConstraint::Using(columns))
                | JoinOperator::Right(JoinConstraint::Using(columns))
                | JoinOperator::RightOuter(JoinConstraint::Using(columns))
                | JoinOperator::FullOuter(JoinConstraint::Using(columns)) = &mut join.join_operator
                {
                    for part in columns.iter_mut().flat_map(|name| &mut name.0) {
                        if let ObjectNamePart::Identifier(ident) = part {
                            self.spell(ident);
                        }
                    }
                }
            }
        }
        for item in &mut select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item {
                self.spell(alias);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => self.spell(ident),
            Expr::CompoundIdentifier(parts) => {
                let table = parts.first().is_some_and(|first| self.aliases.contains(&normal(first)));
                parts.iter_mut().skip(usize::from(table)).for_each(|part| self.spell(part));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
