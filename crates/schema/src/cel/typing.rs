//! Field names in a rule, held against the schema when the rule is compiled: a misspelt field is an error of the CRD,
//! not of every object.

use super::ast::{Each, Expr, Field, Loop};
use crate::structural::node::{Additional, Kind, Node};

/// What is known about the value of an expression.
#[derive(Clone, Copy)]
enum Type<'n> {
    Unknown,
    Of(&'n Node),
}

/// Checks every field selection of a rule at `this`, whose children are in `nodes`.
pub(crate) fn check(expr: &Expr, this: &Node, nodes: &[Node]) -> Result<(), String> {
    let checker = Checker { nodes };
    let root = vec![("self", Type::Of(this)), ("oldSelf", Type::Of(this))];
    checker.infer(expr, &root).map(drop)
}

struct Checker<'n> {
    nodes: &'n [Node],
}

type Names<'n, 'e> = Vec<(&'e str, Type<'n>)>;

impl<'n> Checker<'n> {
    fn infer<'e>(&self, expr: &'e Expr, names: &Names<'n, 'e>) -> Result<Type<'n>, String> {
        match expr {
            Expr::Var(name) => Ok(names
                .iter()
                .rev()
                .find(|(known, _)| *known == &**name)
                .map_or(Type::Unknown, |(_, found)| *found)),
            Expr::Select { of, field, optional } => {
                let found = self.field(self.infer(of, names)?, field)?;
                Ok(if *optional { Type::Unknown } else { found })
            }
            Expr::Has { of, field } => {
                self.field(self.infer(of, names)?, field)?;
                Ok(Type::Unknown)
            }
            Expr::Index { of, at, optional } => {
                self.infer(at, names)?;
                let element = self.element(self.infer(of, names)?);
                Ok(if *optional { Type::Unknown } else { element })
            }
            Expr::Each(each) => self.each(each, names),
            Expr::Bind { name, value, body } => {
                let bound = self.infer(value, names)?;
                let mut names = names.clone();
                names.push((name, bound));
                self.infer(body, &names)
            }
            Expr::OptMap { of, name, body, .. } => {
                self.infer(of, names)?;
                let mut names = names.clone();
                names.push((name, Type::Unknown));
                self.infer(body, &names)?;
                Ok(Type::Unknown)
            }
            other => {
                for child in other.children() {
                    self.infer(child, names)?;
                }
                Ok(Type::Unknown)
            }
        }
    }

    fn field(&self, of: Type<'n>, field: &Field) -> Result<Type<'n>, String> {
        let Type::Of(node) = of else { return Ok(Type::Unknown) };
        let name = [Some(&field.name), field.unescaped.as_ref()];
        for name in name.into_iter().flatten() {
            if let Some(id) = node.properties.get(name) {
                return Ok(Type::Of(&self.nodes[*id]));
            }
        }
        if let Additional::Schema(id) = node.additional {
            return Ok(Type::Of(&self.nodes[id]));
        }
        let open = node.preserve_unknown || node.embedded || matches!(node.additional, Additional::Any);
        match node.kind {
            // The root of a resource says nothing about metadata, apiVersion and kind.
            Kind::Object if open || matches!(&*field.name, "metadata" | "apiVersion" | "kind") => {
                Ok(Type::Unknown)
            }
            Kind::Any => Ok(Type::Unknown),
            Kind::Object => Err(format!("undefined field '{}'", field.name)),
            other => Err(format!("type '{}' does not support field selection", other.name())),
        }
    }

    fn element(&self, of: Type<'n>) -> Type<'n> {
        let Type::Of(node) = of else { return Type::Unknown };
        match (node.items, node.additional) {
            (Some(id), _) | (None, Additional::Schema(id)) => Type::Of(&self.nodes[id]),
            _ => Type::Unknown,
        }
    }

    fn each<'e>(&self, each: &'e Each, names: &Names<'n, 'e>) -> Result<Type<'n>, String> {
        let range = self.infer(&each.range, names)?;
        let list = matches!(range, Type::Of(node) if node.kind == Kind::Array);
        let element = self.element(range);
        let mut names = names.clone();
        match &each.second {
            Some(second) => {
                names.push((&each.name, Type::Unknown));
                names.push((second, element));
            }
            None => names.push((&each.name, if list { element } else { Type::Unknown })),
        }
        for part in each.test.iter().chain(&each.transform) {
            self.infer(part, &names)?;
        }
        Ok(if each.kind == Loop::Filter && list { range } else { Type::Unknown })
    }
}
