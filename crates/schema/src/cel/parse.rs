//! The grammar of CEL, by recursive descent with a bounded depth.

use super::ast::{Call, Each, Expr, Field, Literal, Loop, Operator};
use super::lex::{Token, tokens};
use super::library::{self, Function};

/// Code points in one expression; the same bound as an API server's.
const MAX_EXPRESSION_CHARS: usize = 100_000;

/// Levels of nesting in the tree of one expression. The deepest upstream rule has 20.
const MAX_DEPTH: usize = 160;

/// Brackets, arguments and branches inside each other. Each costs nine calls of this parser.
const MAX_NESTING: usize = 64;

/// What an expression may refer to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment<'e> {
    /// Names of root variables.
    pub(crate) roots: &'e [&'e str],
    /// Names after `variables.`; `None` where there is no such thing.
    pub(crate) variables: Option<&'e [String]>,
}

pub(crate) fn parse(source: &str, environment: Environment<'_>) -> Result<Expr, String> {
    if source.chars().take(MAX_EXPRESSION_CHARS + 1).count() > MAX_EXPRESSION_CHARS {
        return Err(format!("expression exceeds {MAX_EXPRESSION_CHARS} code points"));
    }
    let located = |(message, at): (String, usize)| {
        let before = source.get(..at).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("ERROR: <input>:{line}:{column}: {message}")
    };
    let tokens = tokens(source).map_err(located)?;
    let mut parser = Parser { tokens, at: 0, depth: 0, scope: Vec::new(), environment };
    let (expr, _) = parser.expr().and_then(|expr| parser.end().map(|()| expr)).map_err(located)?;
    Ok(expr)
}

/// An expression and its depth.
type Deep = (Expr, usize);
type Parsed<T> = Result<T, (String, usize)>;

struct Parser<'e> {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    /// Names that macros have bound around here.
    scope: Vec<Box<str>>,
    environment: Environment<'e>,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn offset(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |(_, at)| *at)
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = matches!(self.peek(), Token::Punct(punct) if *punct == text);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Parsed<()> {
        if self.eat(text) { Ok(()) } else { self.fail(format!("expecting '{text}', found {}", self.peek())) }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err((format!("Syntax error: {}", message.into()), self.offset()))
    }

    fn end(&self) -> Parsed<()> {
        match self.peek() {
            Token::End => Ok(()),
            other => self.fail(format!("unexpected {other}")),
        }
    }

    /// One level above the deepest of its parts, unless that is too deep.
    fn above(&self, parts: &[usize]) -> Parsed<usize> {
        let depth = parts.iter().max().copied().unwrap_or(0) + 1;
        if depth > MAX_DEPTH {
            self.fail(format!("nested deeper than {MAX_DEPTH} levels"))
        } else {
            Ok(depth)
        }
    }

    fn expr(&mut self) -> Parsed<Deep> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return self.fail(format!("nested deeper than {MAX_NESTING} levels"));
        }
        let (test, depth) = self.or()?;
        let parsed = if self.eat("?") {
            let (yes, yes_depth) = self.or()?;
            self.expect(":")?;
            let (no, no_depth) = self.expr()?;
            let depth = self.above(&[depth, yes_depth, no_depth])?;
            (Expr::Conditional(Box::new([test, yes, no])), depth)
        } else {
            (test, depth)
        };
        self.depth -= 1;
        Ok(parsed)
    }

    fn or(&mut self) -> Parsed<Deep> {
        let mut all = vec![self.and()?];
        while self.eat("||") {
            all.push(self.and()?);
        }
        self.joined(all, Expr::Or)
    }

    fn and(&mut self) -> Parsed<Deep> {
        let mut all = vec![self.relation()?];
        while self.eat("&&") {
            all.push(self.relation()?);
        }
        self.joined(all, Expr::And)
    }

    fn joined(&mut self, mut all: Vec<Deep>, join: fn(Vec<Expr>) -> Expr) -> Parsed<Deep> {
        if all.len() == 1
            && let Some(only) = all.pop()
        {
            return Ok(only);
        }
        let depth = self.above(&all.iter().map(|(_, depth)| *depth).collect::<Vec<_>>())?;
        Ok((join(all.into_iter().map(|(expr, _)| expr).collect()), depth))
    }

    fn relation(&mut self) -> Parsed<Deep> {
        let mut left = self.sum()?;
        loop {
            let operator = match self.peek() {
                Token::Punct("==") => Operator::Equal,
                Token::Punct("!=") => Operator::NotEqual,
                Token::Punct("<") => Operator::Less,
                Token::Punct("<=") => Operator::LessOrEqual,
                Token::Punct(">") => Operator::Greater,
                Token::Punct(">=") => Operator::GreaterOrEqual,
                Token::Ident(word) if &**word == "in" => Operator::In,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.sum()?;
            left = self.binary(operator, left, right)?;
        }
    }

    fn sum(&mut self) -> Parsed<Deep> {
        let mut left = self.product()?;
        loop {
            let operator = match self.peek() {
                Token::Punct("+") => Operator::Add,
                Token::Punct("-") => Operator::Subtract,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.product()?;
            left = self.binary(operator, left, right)?;
        }
    }

    fn product(&mut self) -> Parsed<Deep> {
        let mut left = self.unary()?;
        loop {
            let operator = match self.peek() {
                Token::Punct("*") => Operator::Multiply,
                Token::Punct("/") => Operator::Divide,
                Token::Punct("%") => Operator::Remainder,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.unary()?;
            left = self.binary(operator, left, right)?;
        }
    }

    fn binary(&mut self, operator: Operator, left: Deep, right: Deep) -> Parsed<Deep> {
        let depth = self.above(&[left.1, right.1])?;
        Ok((Expr::Binary(operator, Box::new([left.0, right.0])), depth))
    }

    fn unary(&mut self) -> Parsed<Deep> {
        let (mut nots, mut minuses) = (0usize, 0usize);
        while self.eat("!") {
            nots += 1;
        }
        if nots == 0 {
            while self.eat("-") {
                minuses += 1;
            }
        }
        if minuses > 0
            && let Some(literal) = self.negative_literal(minuses)
        {
            return self.members((literal, 1));
        }
        let operand = self.member()?;
        // An even number of signs still demands a value of the right type.
        let signs = match nots.max(minuses) {
            0 => return Ok(operand),
            n if n % 2 == 1 => 1,
            _ => 2,
        };
        let mut parsed = operand;
        for _ in 0..signs {
            let depth = self.above(&[parsed.1])?;
            let inner = Box::new(parsed.0);
            parsed = (if nots > 0 { Expr::Not(inner) } else { Expr::Negate(inner) }, depth);
        }
        Ok(parsed)
    }

    /// A minus sign before a number belongs to the number.
    fn negative_literal(&mut self, minuses: usize) -> Option<Expr> {
        let literal = match (self.peek(), minuses % 2) {
            (Token::Int(n), 1) => Literal::Int(-n),
            (Token::Int(n), _) => Literal::Int(*n),
            (Token::IntMin, 1) => Literal::Int(i64::MIN),
            (Token::Double(n), 1) => Literal::Double(-n),
            (Token::Double(n), _) => Literal::Double(*n),
            _ => return None,
        };
        self.at += 1;
        Some(Expr::Literal(literal))
    }

    fn member(&mut self) -> Parsed<Deep> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut of: Deep) -> Parsed<Deep> {
        loop {
            if self.eat(".") {
                let optional = self.eat("?");
                let name: Box<str> = match self.advance() {
                    Token::Ident(name) | Token::Quoted(name) => name,
                    other => {
                        self.at -= 1;
                        return self.fail(format!("expecting a field name, found {other}"));
                    }
                };
                of = if !optional && self.eat("(") {
                    self.method(of, &name)?
                } else {
                    self.select(of, &name, optional)?
                };
            } else if self.eat("[") {
                let optional = self.eat("?");
                let (at, at_depth) = self.expr()?;
                self.expect("]")?;
                let depth = self.above(&[of.1, at_depth])?;
                of = (Expr::Index { of: Box::new(of.0), at: Box::new(at), optional }, depth);
            } else {
                return Ok(of);
            }
        }
    }

    fn select(&mut self, of: Deep, name: &str, optional: bool) -> Parsed<Deep> {
        if let Expr::Var(root) = &of.0
            && &**root == "variables"
            && !self.scope.contains(root)
        {
            let known =
                self.environment.variables.is_some_and(|names| names.iter().any(|known| known == name));
            if !known {
                return Err((format!("undefined field '{name}'"), self.offset()));
            }
            return Ok((Expr::Variable(name.into()), 1));
        }
        let depth = self.above(&[of.1])?;
        Ok((Expr::Select { of: Box::new(of.0), field: Field::new(name), optional }, depth))
    }

    fn primary(&mut self) -> Parsed<Deep> {
        let start = self.offset();
        let literal = match self.advance() {
            Token::Int(n) => Literal::Int(n),
            Token::Uint(n) => Literal::Uint(n),
            Token::Double(n) => Literal::Double(n),
            Token::Text(text) => Literal::Text(text),
            Token::Bytes(bytes) => Literal::Bytes(bytes),
            Token::Punct("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Punct("[") => return self.list(),
            Token::Punct("{") => return self.map(),
            // A leading dot asks for the root scope; there is no other.
            Token::Punct(".") if matches!(self.peek(), Token::Ident(_)) => return self.primary(),
            Token::Ident(name) => match &*name {
                "null" => Literal::Null,
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                _ if self.eat("(") => return self.function(&name, start),
                _ => return self.name(&name, start),
            },
            other => {
                self.at -= 1;
                return self.fail(format!("mismatched input {other}"));
            }
        };
        Ok((Expr::Literal(literal), 1))
    }

    fn name(&mut self, name: &str, start: usize) -> Parsed<Deep> {
        let bound = self.scope.iter().any(|known| &**known == name);
        let root = self.environment.roots.contains(&name);
        let namespace = library::is_namespace(name) && matches!(self.peek(), Token::Punct("."));
        let policy = name == "variables" && self.environment.variables.is_some();
        if bound || root || namespace || policy || library::is_type(name) {
            return Ok((Expr::Var(name.into()), 1));
        }
        Err((format!("undeclared reference to '{name}' (in container '')"), start))
    }

    fn list(&mut self) -> Parsed<Deep> {
        let (mut items, mut depths) = (Vec::new(), vec![0]);
        while !self.eat("]") {
            let optional = self.eat("?");
            let (item, depth) = self.expr()?;
            items.push((item, optional));
            depths.push(depth);
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok((Expr::List(items), self.above(&depths)?))
    }

    fn map(&mut self) -> Parsed<Deep> {
        let (mut entries, mut depths) = (Vec::new(), vec![0]);
        while !self.eat("}") {
            let optional = self.eat("?");
            let (key, key_depth) = self.expr()?;
            self.expect(":")?;
            let (value, value_depth) = self.expr()?;
            entries.push((key, value, optional));
            depths.extend([key_depth, value_depth]);
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok((Expr::Map(entries), self.above(&depths)?))
    }

    /// A call without a receiver; its opening bracket is behind us.
    fn function(&mut self, name: &str, start: usize) -> Parsed<Deep> {
        if name == "has" {
            let (argument, depth) = self.expr()?;
            self.expect(")")?;
            return match argument {
                Expr::Select { of, field, optional: false } => Ok((Expr::Has { of, field }, depth)),
                // A policy's variable is always there.
                Expr::Variable(_) => Ok((Expr::Literal(Literal::Bool(true)), 1)),
                _ => Err(("invalid argument to has() macro".to_owned(), start)),
            };
        }
        self.call(None, name, start)
    }

    /// A call with a receiver: a macro, a function of a namespace, or a method.
    fn method(&mut self, of: Deep, name: &str) -> Parsed<Deep> {
        let start = self.offset();
        if let Expr::Var(namespace) = &of.0
            && library::is_namespace(namespace)
            && !self.scope.contains(namespace)
        {
            if &**namespace == "cel" && name == "bind" {
                return self.bind();
            }
            let qualified = format!("{namespace}.{name}");
            return self.call(None, &qualified, start);
        }
        if let Some(kind) = macro_kind(name)
            && self.opens_with_names()
        {
            return self.each(kind, of, start);
        }
        if matches!(name, "optMap" | "optFlatMap") {
            let bound = self.binding()?;
            let (body, body_depth) = self.scoped(&[&bound], Self::expr)?;
            self.expect(")")?;
            let depth = self.above(&[of.1, body_depth])?;
            let flat = name == "optFlatMap";
            return Ok((Expr::OptMap { of: Box::new(of.0), name: bound, body: Box::new(body), flat }, depth));
        }
        self.call(Some(of), name, start)
    }

    fn call(&mut self, receiver: Option<Deep>, name: &str, start: usize) -> Parsed<Deep> {
        let mut args = Vec::new();
        let mut depths = vec![receiver.as_ref().map_or(0, |(_, depth)| *depth)];
        while !self.eat(")") {
            let (arg, depth) = self.expr()?;
            args.push(arg);
            depths.push(depth);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        let receiver = receiver.map(|(expr, _)| expr);
        let function =
            Function::resolve(name, receiver.is_some(), &args).map_err(|message| (message, start))?;
        let depth = self.above(&depths)?;
        Ok((Expr::Call(Box::new(Call { function, receiver, args })), depth))
    }

    /// `name,` or `first, second,` as the opening arguments of a macro.
    fn opens_with_names(&self) -> bool {
        let token = |ahead: usize| self.tokens.get(self.at + ahead).map(|(token, _)| token);
        matches!(token(0), Some(Token::Ident(_))) && matches!(token(1), Some(Token::Punct(",")))
    }

    fn binding(&mut self) -> Parsed<Box<str>> {
        let name = match self.advance() {
            Token::Ident(name) => name,
            _ => return self.fail("argument must be a simple name"),
        };
        self.expect(",")?;
        Ok(name)
    }

    fn scoped<T>(&mut self, names: &[&str], parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let outer = self.scope.len();
        self.scope.extend(names.iter().map(|name| Box::from(*name)));
        let parsed = parse(self);
        self.scope.truncate(outer);
        parsed
    }

    fn bind(&mut self) -> Parsed<Deep> {
        let name = self.binding()?;
        let (value, value_depth) = self.expr()?;
        self.expect(",")?;
        let (body, body_depth) = self.scoped(&[&name], Self::expr)?;
        self.expect(")")?;
        let depth = self.above(&[value_depth, body_depth])?;
        Ok((Expr::Bind { name, value: Box::new(value), body: Box::new(body) }, depth))
    }

    fn each(&mut self, kind: Loop, range: Deep, start: usize) -> Parsed<Deep> {
        let name = self.binding()?;
        let pair_only = matches!(kind, Loop::TransformList | Loop::TransformMap | Loop::TransformMapEntry);
        let may_pair = pair_only || matches!(kind, Loop::All | Loop::Exists | Loop::ExistsOne);
        let second = if may_pair && self.opens_with_names() { Some(self.binding()?) } else { None };
        if pair_only && second.is_none() {
            return Err(("argument must be a simple name".to_owned(), start));
        }
        let names: Vec<&str> = [Some(&*name), second.as_deref()].into_iter().flatten().collect();
        let mut parts = self.scoped(&names, |parser| {
            let mut parts = vec![parser.expr()?];
            while parser.eat(",") {
                parts.push(parser.expr()?);
            }
            Ok(parts)
        })?;
        self.expect(")")?;
        let mut depths: Vec<usize> = parts.iter().map(|(_, depth)| *depth).collect();
        depths.push(range.1);
        let depth = self.above(&depths)?;
        let last = parts.pop().map(|(expr, _)| expr);
        let first = parts.pop().map(|(expr, _)| expr);
        if !parts.is_empty() {
            return Err(("too many arguments to a macro".to_owned(), start));
        }
        let (test, transform) = match (kind, first) {
            (Loop::All | Loop::Exists | Loop::ExistsOne | Loop::Filter, None) => (last, None),
            (Loop::SortBy, None) => (None, last),
            (Loop::All | Loop::Exists | Loop::ExistsOne | Loop::Filter | Loop::SortBy, Some(_)) => {
                return Err(("too many arguments to a macro".to_owned(), start));
            }
            (_, test) => (test, last),
        };
        let each = Each { kind, range: range.0, name, second, test, transform };
        Ok((Expr::Each(Box::new(each)), depth))
    }
}

fn macro_kind(name: &str) -> Option<Loop> {
    Some(match name {
        "all" => Loop::All,
        "exists" => Loop::Exists,
        "exists_one" | "existsOne" => Loop::ExistsOne,
        "map" => Loop::Map,
        "filter" => Loop::Filter,
        "transformList" => Loop::TransformList,
        "transformMap" => Loop::TransformMap,
        "transformMapEntry" => Loop::TransformMapEntry,
        "sortBy" => Loop::SortBy,
        _ => return None,
    })
}
