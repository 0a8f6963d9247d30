//! Is this text a CEL expression? Syntax only: access log filters and tag values are refused before a proxy sees them.
//! Deliberately absent: types and evaluation (the proxy's `cel` module does that).

/// Deepest nesting of an expression.
const DEPTH_MAX: usize = 64;

/// Checks the syntax.
///
/// # Errors
/// Where the expression stops making sense.
pub fn check(text: &str) -> Result<(), String> {
    let mut p = Parser { text, at: 0 };
    p.ternary(0)?;
    p.space();
    if p.at == text.len() { Ok(()) } else { Err(p.unexpected()) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn unexpected(&self) -> String {
        match self.rest().chars().next() {
            Some(c) => format!("invalid CEL expression {:?}: unexpected {c:?} at {}", self.text, self.at),
            None => format!("invalid CEL expression {:?}: it ends too early", self.text),
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn want(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn ternary(&mut self, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("invalid CEL expression: nested too deeply".into());
        }
        self.binary(depth)?;
        if self.eat("?") {
            self.ternary(depth + 1)?;
            self.want(":")?;
            self.ternary(depth + 1)?;
        }
        Ok(())
    }

    /// Precedence does not matter to syntax.
    fn binary(&mut self, depth: usize) -> Result<(), String> {
        const OPERATORS: [&str; 13] = ["||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%"];
        loop {
            self.unary(depth)?;
            if OPERATORS.iter().any(|op| self.eat(op)) {
                continue;
            }
            self.space();
            let word = self
                .rest()
                .strip_prefix("in")
                .is_some_and(|r| !r.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
            if word {
                self.at += 2;
                continue;
            }
            return Ok(());
        }
    }

    fn unary(&mut self, depth: usize) -> Result<(), String> {
        while self.eat("!") || self.eat("-") {}
        self.primary(depth)?;
        loop {
            if self.eat(".") {
                self.ident()?;
            } else if self.eat("[") {
                self.ternary(depth + 1)?;
                self.want("]")?;
            } else if self.eat("(") {
                self.list(")", depth)?;
            } else {
                return Ok(());
            }
        }
    }

    fn ident(&mut self) -> Result<(), String> {
        self.space();
        let ok = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let len = self.rest().find(|c| !ok(c)).unwrap_or(self.rest().len());
        if len == 0 || self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.unexpected());
        }
        self.at += len;
        Ok(())
    }

    fn list(&mut self, close: &str, depth: usize) -> Result<(), String> {
        if self.eat(close) {
            return Ok(());
        }
        loop {
            self.ternary(depth + 1)?;
            if close == "}" && self.eat(":") {
                self.ternary(depth + 1)?;
            }
            if self.eat(close) {
                return Ok(());
            }
            self.want(",")?;
        }
    }

    fn primary(&mut self, depth: usize) -> Result<(), String> {
        if self.eat("(") {
            self.ternary(depth + 1)?;
            return self.want(")");
        }
        if self.eat("[") {
            return self.list("]", depth);
        }
        if self.eat("{") {
            return self.list("}", depth);
        }
        self.space();
        let rest = self.rest();
        let prefix = rest.find(['"', '\'']).filter(|n| *n <= 2 && rest[..*n].chars().all(|c| "rRbB".contains(c)));
        if let Some(prefix) = prefix {
            self.at += prefix;
            return self.string(prefix > 0);
        }
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            let ok = |c: char| c.is_ascii_alphanumeric() || c == '.';
            self.at += rest.find(|c| !ok(c)).unwrap_or(rest.len());
            return Ok(());
        }
        self.eat(".");
        self.ident()
    }

    fn string(&mut self, raw: bool) -> Result<(), String> {
        let rest = self.rest();
        let quote = if rest.starts_with("\"\"\"") || rest.starts_with("'''") { &rest[..3] } else { &rest[..1] };
        let mut at = quote.len();
        while at < rest.len() {
            if rest[at..].starts_with(quote) {
                self.at += at + quote.len();
                return Ok(());
            }
            let c = rest[at..].chars().next().unwrap_or_default();
            at += c.len_utf8();
            if c == '\\' && !raw {
                at += rest[at..].chars().next().map_or(0, char::len_utf8);
            }
        }
        self.at = self.text.len();
        Err(self.unexpected())
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn expressions() {
        for ok in [
            "response.code >= 400",
            "connection.mtls && request.url_path.contains('v1beta3')",
            "a ? b : c[1] in [1, 2u, 0x3] || !has(x.y)",
            "{'a': 1}['a'] == 1",
            "r'\\d' + \"x\\\"y\"",
        ] {
            assert_eq!(check(ok), Ok(()), "{ok}");
        }
        for bad in [")++++", "", "a &&", "a b", "f(", "'x", "1 +", "a..b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
