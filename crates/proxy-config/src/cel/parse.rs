//! How is CEL text read? A Pratt parser for the expressions that configurations hold (access log filters, metric tags).
//!
//! Macros: `has(a.b)`, and `exists`, `all`, `exists_one`, `filter`, `map` as comprehensions, as CEL's own parser expands them.

use super::{CEL_DEPTH_MAX, Cel, CelFunction as F, Comprehension};
use crate::Name;

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CEL: {reason} at byte {position}")]
pub struct CelError {
    /// What is wrong.
    pub reason: String,
    /// Where.
    pub position: usize,
}

/// Parses an expression.
pub fn parse(text: &str) -> Result<Cel, CelError> {
    let mut p = Parser { text, at: 0, depth: 0 };
    let e = p.ternary()?;
    p.space();
    if p.at < text.len() { Err(p.error("unexpected text")) } else { Ok(e) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Binary operators, loosest first.
const BINARY: [&[(&str, F)]; 5] = [
    &[("||", F::Or)],
    &[("&&", F::And)],
    &[("==", F::Eq), ("!=", F::Ne), ("<=", F::Le), (">=", F::Ge), ("<", F::Lt), (">", F::Gt), ("in", F::In)],
    &[("+", F::Add), ("-", F::Subtract)],
    &[("*", F::Multiply), ("/", F::Divide), ("%", F::Modulo)],
];

fn call(function: F, args: impl Into<Box<[Cel]>>) -> Cel {
    Cel::Call { function, args: args.into() }
}

impl<'a> Parser<'a> {
    fn error(&self, reason: &str) -> CelError {
        CelError { reason: reason.to_owned(), position: self.at }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let hit = self.rest().starts_with(token);
        if hit {
            self.at += token.len();
        }
        hit
    }

    fn expect(&mut self, token: &str) -> Result<(), CelError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(&format!("expected {token}"))) }
    }

    fn word(&mut self) -> Option<&'a str> {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end == 0 || rest.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        self.at += end;
        Some(&rest[..end])
    }

    fn ternary(&mut self) -> Result<Cel, CelError> {
        self.depth += 1;
        if self.depth > CEL_DEPTH_MAX {
            return Err(self.error("expression is nested too deeply"));
        }
        let condition = self.binary(0)?;
        let out = if self.eat("?") {
            let yes = self.ternary()?;
            self.expect(":")?;
            let no = self.ternary()?;
            call(F::Conditional, [condition, yes, no])
        } else {
            condition
        };
        self.depth -= 1;
        Ok(out)
    }

    fn operator(&mut self, level: usize) -> Option<F> {
        self.space();
        let (token, f) = BINARY[level].iter().find(|(token, _)| {
            self.rest().strip_prefix(token).is_some_and(|after| {
                *token != "in" || !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            })
        })?;
        self.at += token.len();
        Some(*f)
    }

    fn binary(&mut self, level: usize) -> Result<Cel, CelError> {
        if level == BINARY.len() {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        while let Some(f) = self.operator(level) {
            let right = self.binary(level + 1)?;
            left = call(f, [left, right]);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Cel, CelError> {
        let mut operators = Vec::new();
        loop {
            self.space();
            let rest = self.rest();
            if rest.starts_with('!') && !rest.starts_with("!=") {
                operators.push(F::Not);
            } else if rest.starts_with('-') {
                operators.push(F::Negate);
            } else {
                break;
            }
            if operators.len() > CEL_DEPTH_MAX {
                return Err(self.error("expression is nested too deeply"));
            }
            self.at += 1;
        }
        let mut e = self.member()?;
        for f in operators.into_iter().rev() {
            e = match (f, e) {
                (F::Negate, Cel::Int(n)) => Cel::Int(-n),
                (F::Negate, Cel::Double(n)) => Cel::Double(-n),
                (f, e) => call(f, [e]),
            };
        }
        Ok(e)
    }

    fn member(&mut self) -> Result<Cel, CelError> {
        let mut e = self.primary()?;
        loop {
            if self.eat(".") {
                let name = self.word().ok_or_else(|| self.error("expected a field"))?;
                e = if self.eat("(") {
                    self.method(e, name)?
                } else {
                    Cel::Select { operand: Box::new(e), field: name.into(), test_only: false }
                };
            } else if self.eat("[") {
                let index = self.ternary()?;
                self.expect("]")?;
                e = call(F::Index, [e, index]);
            } else {
                return Ok(e);
            }
        }
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Cel>, CelError> {
        let mut args = Vec::new();
        while !self.eat(close) {
            args.push(self.ternary()?);
            if !self.eat(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(args)
    }

    fn method(&mut self, target: Cel, name: &str) -> Result<Cel, CelError> {
        let mut args = self.arguments(")")?;
        if let ("exists" | "all" | "exists_one" | "filter" | "map", 2) = (name, args.len()) {
            let body = args.pop().expect("two arguments were counted");
            let Some(Cel::Ident(var)) = args.pop() else {
                return Err(self.error("the first argument must be a name"));
            };
            return Ok(macro_of(name, target, var, body));
        }
        let f = F::by_name(name).ok_or_else(|| self.error(&format!("unknown function {name}")))?;
        args.insert(0, target);
        Ok(call(f, args))
    }

    fn primary(&mut self) -> Result<Cel, CelError> {
        self.space();
        let rest = self.rest();
        match rest.bytes().next() {
            Some(b'(') => {
                self.at += 1;
                let e = self.ternary()?;
                self.expect(")")?;
                Ok(e)
            }
            Some(b'[') => {
                self.at += 1;
                Ok(Cel::List(self.arguments("]")?.into()))
            }
            Some(b'{') => {
                self.at += 1;
                let mut entries = Vec::new();
                while !self.eat("}") {
                    let key = self.ternary()?;
                    self.expect(":")?;
                    entries.push((key, self.ternary()?));
                    if !self.eat(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                Ok(Cel::Map(entries.into()))
            }
            Some(b'"' | b'\'') => self.string(false).map(|s| Cel::String(s.into())),
            Some(b'r') if rest[1..].starts_with(['"', '\'']) => {
                self.at += 1;
                self.string(true).map(|s| Cel::String(s.into()))
            }
            Some(b'b') if rest[1..].starts_with(['"', '\'']) => {
                self.at += 1;
                self.string(false).map(|s| Cel::Bytes(s.into_bytes().into()))
            }
            Some(c) if c.is_ascii_digit() => self.number(),
            _ => self.name(),
        }
    }

    fn name(&mut self) -> Result<Cel, CelError> {
        let word = self.word().ok_or_else(|| self.error("expected an expression"))?;
        match word {
            "true" => return Ok(Cel::Bool(true)),
            "false" => return Ok(Cel::Bool(false)),
            "null" => return Ok(Cel::Null),
            _ => {}
        }
        if !self.eat("(") {
            return Ok(Cel::Ident(word.into()));
        }
        let mut args = self.arguments(")")?;
        if word == "has" {
            return match (args.pop(), args.is_empty()) {
                (Some(Cel::Select { operand, field, .. }), true) => Ok(Cel::Select { operand, field, test_only: true }),
                _ => Err(self.error("has() takes one field selection")),
            };
        }
        let f = F::by_name(word).ok_or_else(|| self.error(&format!("unknown function {word}")))?;
        Ok(call(f, args))
    }

    fn number(&mut self) -> Result<Cel, CelError> {
        let rest = self.rest();
        let hex = rest.strip_prefix("0x");
        let end = match hex {
            Some(h) => 2 + h.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(h.len()),
            None => {
                rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == 'e' || c == 'E')).unwrap_or(rest.len())
            }
        };
        let text = &rest[..end];
        self.at += end;
        let bad = || CelError { reason: format!("bad number {text}"), position: self.at };
        if self.text[self.at..].starts_with(['u', 'U']) {
            let n = hex.map_or_else(|| text.parse(), |_| u64::from_str_radix(&text[2..], 16)).map_err(|_| bad())?;
            self.at += 1;
            return Ok(Cel::Uint(n));
        }
        if hex.is_some() {
            return i64::from_str_radix(&text[2..], 16).map(Cel::Int).map_err(|_| bad());
        }
        if text.contains(['.', 'e', 'E']) {
            return text.parse().map(Cel::Double).map_err(|_| bad());
        }
        text.parse().map(Cel::Int).map_err(|_| bad())
    }

    fn string(&mut self, raw: bool) -> Result<String, CelError> {
        let quote = self.rest().chars().next().ok_or_else(|| self.error("expected a string"))?;
        self.at += 1;
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' if !raw => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    Some(c @ ('\\' | '"' | '\'' | '`' | '?')) => out.push(c),
                    _ => return Err(self.error("unknown escape")),
                },
                c => out.push(c),
            }
        }
        Err(self.error("unclosed string"))
    }
}

/// CEL's standard expansion of list macros.
fn macro_of(name: &str, range: Cel, var: Name, body: Cel) -> Cel {
    let accu: Name = "__result__".into();
    let result = || Cel::Ident(accu.clone());
    let strictly = |e: Cel| call(F::NotStrictlyFalse, [e]);
    let (init, condition, step, end) = match name {
        "all" => (Cel::Bool(true), strictly(result()), call(F::And, [result(), body]), result()),
        "exists" => (Cel::Bool(false), strictly(call(F::Not, [result()])), call(F::Or, [result(), body]), result()),
        "exists_one" => {
            let step = call(F::Conditional, [body, call(F::Add, [result(), Cel::Int(1)]), result()]);
            (Cel::Int(0), Cel::Bool(true), step, call(F::Eq, [result(), Cel::Int(1)]))
        }
        "filter" => {
            let add = call(F::Add, [result(), Cel::List(Box::new([Cel::Ident(var.clone())]))]);
            let step = call(F::Conditional, [body, add, result()]);
            (Cel::List(Box::default()), Cel::Bool(true), step, result())
        }
        _ => {
            let step = call(F::Add, [result(), Cel::List(Box::new([body]))]);
            (Cel::List(Box::default()), Cel::Bool(true), step, result())
        }
    };
    Cel::Comprehension(Box::new(Comprehension {
        iter_var: var,
        iter_range: range,
        accu_var: accu,
        accu_init: init,
        loop_condition: condition,
        loop_step: step,
        result: end,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_filters_parse() {
        for text in [
            "response.code >= 400",
            "response.code >= 400 && (connection.mtls || request.url_path.contains('v1beta3'))",
            "!has(upstream_peer.app) || upstream_peer['app'] == \"x\"",
            "request.headers['x-a'] in ['a', 'b'] ? 1 : 2u",
            "[1, 2].exists(x, x > 1) || -1 < 0x10",
        ] {
            parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    }

    #[test]
    fn precedence() {
        let e = parse("a || b && c == d + e * f").unwrap();
        let Cel::Call { function: F::Or, args } = e else { panic!("{e:?}") };
        assert!(matches!(&args[1], Cel::Call { function: F::And, .. }));
    }

    #[test]
    fn errors() {
        for text in ["", "a b", "(a", "'x", "nope(1)", "a.", "1.2.3", &"(".repeat(200), &"!".repeat(200)] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
