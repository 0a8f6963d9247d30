//! What does a CEL condition say? `google.api.expr.v1alpha1.Expr` as a compact tree; evaluated by `proxy-core::cel`.

use std::sync::Arc;

use crate::Name;

mod parse;
pub use parse::{CelError, parse};

/// Deepest expression accepted.
pub const CEL_DEPTH_MAX: usize = 64;

/// A CEL expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Cel {
    /// null
    Null,
    /// bool
    Bool(bool),
    /// int
    Int(i64),
    /// uint
    Uint(u64),
    /// double
    Double(f64),
    /// string
    String(Name),
    /// bytes
    Bytes(Arc<[u8]>),
    /// An attribute or comprehension variable.
    Ident(Name),
    /// `operand.field`; `test_only` is the `has()` macro.
    Select {
        /// Operand.
        operand: Box<Cel>,
        /// Field.
        field: Name,
        /// `has(operand.field)`
        test_only: bool,
    },
    /// A call; operators are calls of `_==_`, `_&&_`, `_[_]` and so on.
    Call {
        /// Function.
        function: CelFunction,
        /// Receiver then arguments.
        args: Box<[Cel]>,
    },
    /// `[a, b]`
    List(Box<[Cel]>),
    /// `{k: v}`
    Map(Box<[(Cel, Cel)]>),
    /// A macro such as `exists` expanded by the parser.
    Comprehension(Box<Comprehension>),
}

/// `Expr.Comprehension`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comprehension {
    /// Loop variable.
    pub iter_var: Name,
    /// What is iterated.
    pub iter_range: Cel,
    /// Accumulator variable.
    pub accu_var: Name,
    /// Its start value.
    pub accu_init: Cel,
    /// Goes on while true.
    pub loop_condition: Cel,
    /// New accumulator.
    pub loop_step: Cel,
    /// Result.
    pub result: Cel,
}

/// Functions and operators known to the evaluator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CelFunction {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Not,
    NotStrictlyFalse,
    Conditional,
    Index,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Negate,
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    Type,
    LowerAscii,
    UpperAscii,
}

impl CelFunction {
    /// The function of this name, as CEL's parser writes it.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "_==_" => Self::Eq,
            "_!=_" => Self::Ne,
            "_<_" => Self::Lt,
            "_<=_" => Self::Le,
            "_>_" => Self::Gt,
            "_>=_" => Self::Ge,
            "_&&_" => Self::And,
            "_||_" => Self::Or,
            "!_" => Self::Not,
            "@not_strictly_false" | "__not_strictly_false__" => Self::NotStrictlyFalse,
            "_?_:_" => Self::Conditional,
            "_[_]" => Self::Index,
            "@in" | "in" | "_in_" => Self::In,
            "_+_" => Self::Add,
            "_-_" => Self::Subtract,
            "_*_" => Self::Multiply,
            "_/_" => Self::Divide,
            "_%_" => Self::Modulo,
            "-_" => Self::Negate,
            "size" => Self::Size,
            "contains" => Self::Contains,
            "startsWith" => Self::StartsWith,
            "endsWith" => Self::EndsWith,
            "matches" => Self::Matches,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "duration" => Self::Duration,
            "timestamp" => Self::Timestamp,
            "type" => Self::Type,
            "lowerAscii" => Self::LowerAscii,
            "upperAscii" => Self::UpperAscii,
            _ => return None,
        })
    }
}

/// A CEL expression given as text, with its parsed form.
#[derive(Debug, Clone, PartialEq)]
pub struct CelSource {
    /// The text.
    pub text: Name,
    /// The tree.
    pub expr: Cel,
}
