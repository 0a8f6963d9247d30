//! Nodes to text: scopes, pipelines, truth as Go has it.

use serde_json::Value;

use super::functions::call;
use super::parse::{Node, Pipe, Template, Term};
use super::{DEPTH_MAX, OUTPUT_BYTES_MAX, TemplateError};

pub(super) fn run(template: &Template, data: &Value) -> Result<String, TemplateError> {
    let mut run = Run { template, out: String::new(), variables: vec![(String::new(), data.clone())], depth: 0 };
    run.nodes(&template.root, data)?;
    Ok(run.out)
}

struct Run<'a> {
    template: &'a Template,
    out: String,
    variables: Vec<(String, Value)>,
    depth: usize,
}

/// Go's truth: not the zero value, not empty.
pub(super) fn truth(v: &Value) -> bool {
    match v {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// How Go prints a value.
pub(super) fn print(v: &Value) -> String {
    match v {
        Value::Null => "<no value>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", print(v))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// A field by its name, in any case, with or without Go's `Get`.
fn field(v: &Value, name: &str) -> Value {
    if let Value::Object(map) = v {
        let found = map.get(name).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
        if let Some(found) = found {
            return found.clone();
        }
        if let Some(short) = name.strip_prefix("Get").filter(|s| !s.is_empty()) {
            return field(v, short);
        }
        return Value::Null;
    }
    // Methods of enums and wrappers: the value itself.
    if matches!(name, "String" | "GetValue" | "Value") { v.clone() } else { Value::Null }
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let scope = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
            if self.out.len() > OUTPUT_BYTES_MAX {
                return Err(TemplateError { line: 0, message: format!("output exceeds {OUTPUT_BYTES_MAX} bytes") });
            }
        }
        self.variables.truncate(scope);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action { line, declare, pipe } => {
                let value = self.pipe(pipe, dot, *line)?;
                match declare {
                    None => self.out.push_str(&print(&value)),
                    Some((name, true)) => self.variables.push((name.clone(), value)),
                    Some((name, false)) => match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
                        Some((_, old)) => *old = value,
                        None => return Err(undefined(*line, name)),
                    },
                }
            }
            Node::If { line, branches, otherwise } => {
                for (condition, body) in branches {
                    if truth(&self.pipe(condition, dot, *line)?) {
                        return self.nodes(body, dot);
                    }
                }
                self.nodes(otherwise, dot)?;
            }
            Node::With { line, variable, pipe, body, otherwise } => {
                let value = self.pipe(pipe, dot, *line)?;
                if truth(&value) {
                    let scope = self.variables.len();
                    self.variables.extend(variable.iter().map(|name| (name.clone(), value.clone())));
                    self.nodes(body, &value)?;
                    self.variables.truncate(scope);
                } else {
                    self.nodes(otherwise, dot)?;
                }
            }
            Node::Range { line, key, value, pipe, body, otherwise } => {
                let items: Vec<(Value, Value)> = match self.pipe(pipe, dot, *line)? {
                    Value::Array(items) => items.into_iter().enumerate().map(|(i, v)| (i.into(), v)).collect(),
                    Value::Object(map) => {
                        let mut items: Vec<(Value, Value)> = map.into_iter().map(|(k, v)| (k.into(), v)).collect();
                        items.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
                        items
                    }
                    Value::Null => Vec::new(),
                    other => {
                        let message = format!("range can't iterate over {}", print(&other));
                        return Err(TemplateError { line: *line, message });
                    }
                };
                if items.is_empty() {
                    return self.nodes(otherwise, dot);
                }
                for (k, v) in items {
                    let scope = self.variables.len();
                    self.variables.extend(key.iter().map(|name| (name.clone(), k.clone())));
                    self.variables.extend(value.iter().map(|name| (name.clone(), v.clone())));
                    self.nodes(body, &v)?;
                    self.variables.truncate(scope);
                }
            }
            Node::Call { line, name, argument } => {
                let value = match argument {
                    Some(pipe) => self.pipe(pipe, dot, *line)?,
                    None => Value::Null,
                };
                let template = self.template;
                let Some(body) = template.named.get(name) else {
                    return Err(TemplateError { line: *line, message: format!("template {name:?} is not defined") });
                };
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(TemplateError { line: *line, message: "templates call each other too deeply".into() });
                }
                // A called template sees its argument only.
                let outer = std::mem::replace(&mut self.variables, vec![(String::new(), value.clone())]);
                self.nodes(body, &value)?;
                self.variables = outer;
                self.depth -= 1;
            }
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value, line: u32) -> Result<Value, TemplateError> {
        let mut last: Option<Value> = None;
        for command in pipe {
            last = Some(self.command(command, last, dot, line)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        command: &[Term],
        last: Option<Value>,
        dot: &Value,
        line: u32,
    ) -> Result<Value, TemplateError> {
        if let Some(Term::Function(name)) = command.first() {
            // `and` and `or` look no further than they must.
            if matches!(name.as_str(), "and" | "or") && command.len() > 1 {
                let mut value = Value::Null;
                for term in &command[1..] {
                    value = self.term(term, dot, line)?;
                    if truth(&value) == (name == "or") {
                        return Ok(value);
                    }
                }
                return Ok(last.unwrap_or(value));
            }
            let mut arguments = Vec::with_capacity(command.len());
            for term in &command[1..] {
                arguments.push(self.term(term, dot, line)?);
            }
            arguments.extend(last);
            return call(name, arguments).map_err(|message| TemplateError { line, message });
        }
        if command.len() > 1 {
            return Err(TemplateError {
                line,
                message: "can't give arguments to something that is not a function".into(),
            });
        }
        self.term(&command[0], dot, line)
    }

    fn term(&mut self, term: &Term, dot: &Value, line: u32) -> Result<Value, TemplateError> {
        match term {
            Term::Dot => Ok(dot.clone()),
            Term::Literal(v) => Ok(v.clone()),
            Term::Variable(name) => self
                .variables
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
                .ok_or_else(|| undefined(line, name)),
            Term::Function(name) => call(name, Vec::new()).map_err(|message| TemplateError { line, message }),
            Term::Pipe(pipe) => self.pipe(pipe, dot, line),
            Term::Fields(base, names) => {
                let mut value = self.term(base, dot, line)?;
                for name in names {
                    value = field(&value, name);
                }
                Ok(value)
            }
        }
    }
}

fn undefined(line: u32, name: &str) -> TemplateError {
    TemplateError { line, message: format!("undefined variable \"${name}\"") }
}
