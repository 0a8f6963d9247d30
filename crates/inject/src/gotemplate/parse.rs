//! Text to nodes: Go's template grammar.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{DEPTH_MAX, TemplateError};

/// A parsed template with its named parts.
#[derive(Debug, Default)]
pub(super) struct Template {
    pub root: Vec<Node>,
    pub named: BTreeMap<String, Vec<Node>>,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action { line: u32, declare: Option<(String, bool)>, pipe: Pipe },
    If { line: u32, branches: Vec<(Pipe, Vec<Node>)>, otherwise: Vec<Node> },
    With { line: u32, variable: Option<String>, pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    Range { line: u32, key: Option<String>, value: Option<String>, pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    Call { line: u32, name: String, argument: Option<Pipe> },
}

/// Commands, each fed to the next.
pub(super) type Pipe = Vec<Vec<Term>>;

#[derive(Debug)]
pub(super) enum Term {
    Dot,
    Literal(Value),
    Variable(String),
    Function(String),
    Pipe(Pipe),
    /// Fields of a term (`.a.b`, `$x.y`, `(pipe).z`).
    Fields(Box<Term>, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Variable(String),
    Field(String),
    Dot,
    Literal(Value),
    Punct(char),
    Assign(bool),
    /// Whitespace that separates `.a .b` from `.a.b`.
    Space,
}

enum Piece {
    Text(String),
    Action(u32, Vec<Token>),
}

pub(super) fn parse(text: &str) -> Result<Template, TemplateError> {
    let pieces = split(text)?;
    let mut parser = Parser { pieces: pieces.into_iter(), template: Template::default() };
    let (root, end) = parser.block(0)?;
    if let Some((line, word)) = end {
        return Err(error(line, format!("unexpected {{{{ {word} }}}}")));
    }
    parser.template.root = root;
    Ok(parser.template)
}

fn error(line: u32, message: impl Into<String>) -> TemplateError {
    TemplateError { line, message: message.into() }
}

fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut out = Vec::new();
    let (mut rest, mut line, mut trim_next) = (text, 1u32, false);
    loop {
        let Some(start) = rest.find("{{") else {
            out.push(Piece::Text(if trim_next { rest.trim_start() } else { rest }.to_owned()));
            return Ok(out);
        };
        let before = &rest[..start];
        line += count_lines(before);
        let mut body = &rest[start + 2..];
        let mut shown = if trim_next { before.trim_start() } else { before };
        if body.starts_with('-') && body[1..].starts_with(char::is_whitespace) {
            shown = shown.trim_end();
            body = &body[1..];
        }
        out.push(Piece::Text(shown.to_owned()));
        let end = action_end(body).ok_or_else(|| error(line, "unclosed action"))?;
        let mut inner = &body[..end];
        trim_next = inner.ends_with('-') && inner[..inner.len() - 1].ends_with(char::is_whitespace);
        if trim_next {
            inner = &inner[..inner.len() - 1];
        }
        if !inner.trim_start().starts_with("/*") {
            out.push(Piece::Action(line, tokens(inner, line)?));
        }
        line += count_lines(&body[..end]);
        rest = &body[end + 2..];
    }
}

fn count_lines(text: &str) -> u32 {
    u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX)
}

/// The end of an action, past strings and comments.
fn action_end(body: &str) -> Option<usize> {
    if body.trim_start().starts_with("/*") {
        let close = body.find("*/")?;
        return body[close..].find("}}").map(|e| close + e);
    }
    let bytes = body.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'"' | b'`') => {
                i += 1;
                while i < bytes.len() && bytes[i] != quote {
                    i += if bytes[i] == b'\\' && quote == b'"' { 2 } else { 1 };
                }
                i += 1;
            }
            b'}' if bytes.get(i + 1) == Some(&b'}') => return Some(i),
            _ => i += 1,
        }
    }
    None
}

fn tokens(text: &str, line: u32) -> Result<Vec<Token>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = text;
    let word = |s: &str| s.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(s.len());
    while let Some(c) = rest.chars().next() {
        let len = match c {
            c if c.is_whitespace() => {
                out.push(Token::Space);
                rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len())
            }
            '"' => {
                let end = string_end(rest).ok_or_else(|| error(line, "unterminated string"))?;
                let value = serde_json::from_str(&rest[..end]).map_err(|_| error(line, "invalid string"))?;
                out.push(Token::Literal(value));
                end
            }
            '`' => {
                let end = rest[1..].find('`').ok_or_else(|| error(line, "unterminated string"))?;
                out.push(Token::Literal(Value::from(&rest[1..end + 1])));
                end + 2
            }
            '$' => {
                let len = word(&rest[1..]);
                out.push(Token::Variable(rest[1..1 + len].to_owned()));
                len + 1
            }
            '.' => {
                let len = word(&rest[1..]);
                out.push(if len == 0 { Token::Dot } else { Token::Field(rest[1..1 + len].to_owned()) });
                len + 1
            }
            ':' if rest.starts_with(":=") => {
                out.push(Token::Assign(true));
                2
            }
            '=' => {
                out.push(Token::Assign(false));
                1
            }
            '(' | ')' | '|' | ',' => {
                out.push(Token::Punct(c));
                1
            }
            c if c.is_ascii_digit() || (c == '-' && rest[1..].starts_with(|d: char| d.is_ascii_digit())) => {
                let len =
                    1 + rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len() - 1);
                let number = serde_json::from_str(&rest[..len]).map_err(|_| error(line, "invalid number"))?;
                out.push(Token::Literal(number));
                len
            }
            c if c.is_alphabetic() || c == '_' => {
                let len = word(rest);
                out.push(match &rest[..len] {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    "nil" => Token::Literal(Value::Null),
                    name => Token::Word(name.to_owned()),
                });
                len
            }
            c => return Err(error(line, format!("unexpected {c:?}"))),
        };
        rest = &rest[len..];
    }
    Ok(out)
}

fn string_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut i = 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return Some(i + 1),
            _ => i += 1,
        }
    }
    None
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    template: Template,
}

type End = Option<(u32, String)>;

impl Parser {
    /// Nodes up to `end`, `else` or the end of the text; what ended them, with the tokens of `else if`.
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, End), TemplateError> {
        let (nodes, end, _) = self.block_with_else(depth)?;
        Ok((nodes, end))
    }

    fn block_with_else(&mut self, depth: usize) -> Result<(Vec<Node>, End, Cursor), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (line, tokens) = match piece {
                Piece::Text(text) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text(text));
                    }
                    continue;
                }
                Piece::Action(line, tokens) => (line, tokens),
            };
            if depth > DEPTH_MAX {
                return Err(error(line, "blocks are nested too deeply"));
            }
            let mut cursor = Cursor { tokens, at: 0, line };
            let keyword = match cursor.peek() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            if matches!(keyword.as_str(), "if" | "with" | "range" | "define" | "block" | "template" | "end" | "else") {
                cursor.next();
            }
            match keyword.as_str() {
                "end" | "else" => return Ok((nodes, Some((line, keyword)), cursor)),
                "if" => nodes.push(self.conditional(cursor, depth)?),
                "with" => {
                    let variable = cursor.declaration()?.map(|(name, _)| name);
                    let pipe = cursor.whole_pipe()?;
                    let (body, otherwise) = self.two_blocks(line, depth)?;
                    nodes.push(Node::With { line, variable, pipe, body, otherwise });
                }
                "range" => {
                    let (key, value) = cursor.range_variables()?;
                    let pipe = cursor.whole_pipe()?;
                    let (body, otherwise) = self.two_blocks(line, depth)?;
                    nodes.push(Node::Range { line, key, value, pipe, body, otherwise });
                }
                "define" | "block" => {
                    let name = cursor.string()?;
                    let argument = if keyword == "block" { Some(cursor.whole_pipe()?) } else { None };
                    let (body, end) = self.block(depth + 1)?;
                    expect_end(line, end)?;
                    self.template.named.insert(name.clone(), body);
                    if argument.is_some() {
                        nodes.push(Node::Call { line, name, argument });
                    }
                }
                "template" => {
                    let name = cursor.string()?;
                    let argument = if cursor.peek().is_some() { Some(cursor.whole_pipe()?) } else { None };
                    nodes.push(Node::Call { line, name, argument });
                }
                _ => {
                    let declare = cursor.declaration()?;
                    nodes.push(Node::Action { line, declare, pipe: cursor.whole_pipe()? });
                }
            }
        }
        Ok((nodes, None, Cursor { tokens: Vec::new(), at: 0, line: 0 }))
    }

    fn conditional(&mut self, mut cursor: Cursor, depth: usize) -> Result<Node, TemplateError> {
        let line = cursor.line;
        let mut branches = Vec::new();
        loop {
            let pipe = cursor.whole_pipe()?;
            let (body, end, mut after) = self.block_with_else(depth + 1)?;
            branches.push((pipe, body));
            match end {
                Some((_, word)) if word == "else" => {
                    if after.peek() == Some(&Token::Word("if".into())) {
                        after.next();
                        cursor = after;
                        continue;
                    }
                    let (otherwise, end) = self.block(depth + 1)?;
                    expect_end(line, end)?;
                    return Ok(Node::If { line, branches, otherwise });
                }
                end => {
                    expect_end(line, end)?;
                    return Ok(Node::If { line, branches, otherwise: Vec::new() });
                }
            }
        }
    }

    fn two_blocks(&mut self, line: u32, depth: usize) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        let (body, end) = self.block(depth + 1)?;
        if end.as_ref().is_some_and(|(_, word)| word == "else") {
            let (otherwise, end) = self.block(depth + 1)?;
            expect_end(line, end)?;
            return Ok((body, otherwise));
        }
        expect_end(line, end)?;
        Ok((body, Vec::new()))
    }
}

fn expect_end(line: u32, end: End) -> Result<(), TemplateError> {
    match end {
        Some((_, word)) if word == "end" => Ok(()),
        _ => Err(error(line, "the block is not closed by {{ end }}")),
    }
}

/// Walks the tokens of one action.
struct Cursor {
    tokens: Vec<Token>,
    at: usize,
    line: u32,
}

impl Cursor {
    fn skip_space(&mut self) {
        while self.tokens.get(self.at) == Some(&Token::Space) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<&Token> {
        self.skip_space();
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        self.skip_space();
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    fn string(&mut self) -> Result<String, TemplateError> {
        match self.next() {
            Some(Token::Literal(Value::String(s))) => Ok(s),
            _ => Err(error(self.line, "a template's name must be a string")),
        }
    }

    /// `$x :=` or `$x =`.
    fn declaration(&mut self) -> Result<Option<(String, bool)>, TemplateError> {
        let start = self.at;
        if let Some(Token::Variable(name)) = self.next()
            && let Some(Token::Assign(new)) = self.next()
        {
            return Ok(Some((name, new)));
        }
        self.at = start;
        Ok(None)
    }

    /// `$v :=` or `$k, $v :=`.
    fn range_variables(&mut self) -> Result<(Option<String>, Option<String>), TemplateError> {
        let start = self.at;
        if let Some((name, _)) = self.declaration()? {
            return Ok((None, Some(name)));
        }
        if let (
            Some(Token::Variable(key)),
            Some(Token::Punct(',')),
            Some(Token::Variable(value)),
            Some(Token::Assign(_)),
        ) = (self.next(), self.next(), self.next(), self.next())
        {
            return Ok((Some(key), Some(value)));
        }
        self.at = start;
        Ok((None, None))
    }

    fn whole_pipe(&mut self) -> Result<Pipe, TemplateError> {
        let pipe = self.pipe(0)?;
        match self.peek() {
            None => Ok(pipe),
            Some(token) => {
                let message = format!("unexpected {token:?}");
                Err(error(self.line, message))
            }
        }
    }

    fn pipe(&mut self, depth: usize) -> Result<Pipe, TemplateError> {
        if depth > DEPTH_MAX {
            return Err(error(self.line, "parentheses are nested too deeply"));
        }
        let mut pipe = Vec::new();
        loop {
            let mut command = Vec::new();
            while let Some(token) = self.peek() {
                if matches!(token, Token::Punct('|' | ')')) {
                    break;
                }
                command.push(self.term(depth)?);
            }
            if command.is_empty() {
                return Err(error(self.line, "missing value for command"));
            }
            pipe.push(command);
            if self.peek() != Some(&Token::Punct('|')) {
                return Ok(pipe);
            }
            self.next();
        }
    }

    fn term(&mut self, depth: usize) -> Result<Term, TemplateError> {
        let line = self.line;
        let mut fields = Vec::new();
        let base = match self.next() {
            Some(Token::Dot) => Term::Dot,
            Some(Token::Field(name)) => {
                fields.push(name);
                Term::Dot
            }
            Some(Token::Variable(name)) => Term::Variable(name),
            Some(Token::Literal(value)) => Term::Literal(value),
            Some(Token::Word(name)) => Term::Function(name),
            Some(Token::Punct('(')) => {
                let pipe = self.pipe(depth + 1)?;
                if self.next() != Some(Token::Punct(')')) {
                    return Err(error(line, "unclosed left paren"));
                }
                Term::Pipe(pipe)
            }
            other => return Err(error(line, format!("unexpected {other:?}"))),
        };
        // Without a space in between, further fields belong to this term.
        while let Some(Token::Field(name)) = self.tokens.get(self.at) {
            fields.push(name.clone());
            self.at += 1;
        }
        Ok(if fields.is_empty() { base } else { Term::Fields(Box::new(base), fields) })
    }
}
