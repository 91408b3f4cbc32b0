//! Expressions as they are evaluated: names resolved to functions, literal patterns compiled, macros expanded to loops
//! that know what they compute.

use super::library::Function;

/// A parsed expression. Depth is bounded by the parser, so recursion over it is.
#[derive(Debug)]
pub(crate) enum Expr {
    Literal(Literal),
    Var(Box<str>),
    /// `variables.name` in an admission policy.
    Variable(Box<str>),
    Select {
        of: Box<Expr>,
        field: Field,
        optional: bool,
    },
    Has {
        of: Box<Expr>,
        field: Field,
    },
    Index {
        of: Box<Expr>,
        at: Box<Expr>,
        optional: bool,
    },
    Not(Box<Expr>),
    Negate(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Conditional(Box<[Expr; 3]>),
    Binary(Operator, Box<[Expr; 2]>),
    /// The flag marks an optional entry (`?x`).
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    Each(Box<Each>),
    Bind {
        name: Box<str>,
        value: Box<Expr>,
        body: Box<Expr>,
    },
    /// `optMap` and `optFlatMap`.
    OptMap {
        of: Box<Expr>,
        name: Box<str>,
        body: Box<Expr>,
        flat: bool,
    },
    Call(Box<Call>),
}

impl Expr {
    /// The expressions right below this one.
    pub(crate) fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Literal(_) | Expr::Var(_) | Expr::Variable(_) => Vec::new(),
            Expr::Select { of, .. } | Expr::Has { of, .. } | Expr::Not(of) | Expr::Negate(of) => vec![of],
            Expr::Index { of, at, .. } => vec![of, at],
            Expr::And(parts) | Expr::Or(parts) => parts.iter().collect(),
            Expr::Conditional(parts) => parts.iter().collect(),
            Expr::Binary(_, sides) => sides.iter().collect(),
            Expr::List(items) => items.iter().map(|(item, _)| item).collect(),
            Expr::Map(entries) => entries.iter().flat_map(|(key, value, _)| [key, value]).collect(),
            Expr::Each(each) => [Some(&each.range), each.test.as_ref(), each.transform.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            Expr::Bind { value, body, .. } => vec![value, body],
            Expr::OptMap { of, body, .. } => vec![of, body],
            Expr::Call(call) => call.receiver.iter().chain(&call.args).collect(),
        }
    }

    /// Whether the name is mentioned anywhere.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        matches!(self, Expr::Var(var) if &**var == name)
            || self.children().into_iter().any(|child| child.mentions(name))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
}

/// A field name as written in CEL, and as JSON spells it where CEL has to escape it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: Box<str>,
    pub(crate) unescaped: Option<Box<str>>,
}

impl Field {
    pub(crate) fn new(name: &str) -> Field {
        Field { name: name.into(), unescaped: unescape(name) }
    }
}

/// Words that cannot be written as they are and stand between double underscores instead.
const KEYWORDS: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

fn unescape(name: &str) -> Option<Box<str>> {
    if !name.contains("__") {
        return None;
    }
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && KEYWORDS.contains(&word)
    {
        return Some(word.into());
    }
    let mut out = String::new();
    let mut rest = name;
    'next: while !rest.is_empty() {
        for (escape, plain) in
            [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")]
        {
            if let Some(after) = rest.strip_prefix(escape) {
                out.push_str(plain);
                rest = after;
                continue 'next;
            }
        }
        let mut chars = rest.chars();
        out.extend(chars.next());
        rest = chars.as_str();
    }
    (out != name).then(|| out.into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// What a loop over a list or map computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    All,
    Exists,
    ExistsOne,
    /// A list of what `transform` gives, of the items that pass `test`.
    Map,
    /// A list of the items that pass `test`.
    Filter,
    /// A list of what `transform` gives, over keys and values.
    TransformList,
    /// A map from the same keys to what `transform` gives.
    TransformMap,
    /// A map from the entries of the maps that `transform` gives.
    TransformMapEntry,
    /// The items in the order of what `transform` gives.
    SortBy,
}

#[derive(Debug)]
pub(crate) struct Each {
    pub(crate) kind: Loop,
    pub(crate) range: Expr,
    pub(crate) name: Box<str>,
    /// With two names the first is the index or key, the second the item or value.
    pub(crate) second: Option<Box<str>>,
    pub(crate) test: Option<Expr>,
    pub(crate) transform: Option<Expr>,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: Function,
    pub(crate) receiver: Option<Expr>,
    pub(crate) args: Vec<Expr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_unescaped_as_kubernetes_escapes_them() {
        for (written, meant) in [
            ("__namespace__", Some("namespace")),
            ("a__dash__b__dot__c__slash__d", Some("a-b.c/d")),
            ("a__underscores__b", Some("a__b")),
            ("plain", None),
            ("__plain__", None),
        ] {
            assert_eq!(Field::new(written).unescaped.as_deref(), meant, "{written}");
        }
    }
}
