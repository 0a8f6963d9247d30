//! How does a `google.api.expr.v1alpha1.Expr` become the compact tree?

use protos::google::api::expr::v1alpha1 as p;
use protos::google::api::expr::v1alpha1::expr::ExprKind as E;

use crate::cel::{CEL_DEPTH_MAX, Cel, CelFunction, Comprehension};
use crate::error::{At, Result, invalid, missing, unsupported};

/// Compiles an expression. Errors: unknown function, message construction, too deep.
pub fn expr(e: &p::Expr) -> Result<Cel> {
    node(e, CEL_DEPTH_MAX)
}

fn boxed(field: &str, e: &Option<Box<p::Expr>>, depth: usize) -> Result<Cel> {
    node(e.as_ref().ok_or_else(|| missing(field))?, depth).at(field)
}

fn node(e: &p::Expr, depth: usize) -> Result<Cel> {
    let depth = depth.checked_sub(1).ok_or_else(|| invalid("expression is nested too deeply"))?;
    Ok(match e.expr_kind.as_ref().ok_or_else(|| missing("expr_kind"))? {
        E::ConstExpr(c) => constant(c)?,
        E::IdentExpr(i) => Cel::Ident(i.name.as_str().into()),
        E::SelectExpr(s) => Cel::Select {
            operand: Box::new(boxed("operand", &s.operand, depth)?),
            field: s.field.as_str().into(),
            test_only: s.test_only,
        },
        E::CallExpr(c) => {
            let function = CelFunction::by_name(&c.function)
                .ok_or_else(|| unsupported(format!("function {}", c.function)).at("function"))?;
            let target = c.target.iter().map(|t| node(t, depth).at("target"));
            let args = c.args.iter().map(|a| node(a, depth).at("args"));
            Cel::Call { function, args: target.chain(args).collect::<Result<Vec<_>>>()?.into() }
        }
        E::ListExpr(l) => Cel::List(l.elements.iter().map(|x| node(x, depth)).collect::<Result<Vec<_>>>()?.into()),
        E::StructExpr(s) => {
            use p::expr::create_struct::entry::KeyKind;
            if !s.message_name.is_empty() {
                return Err(unsupported("message construction").at("message_name"));
            }
            let entries = s.entries.iter().map(|x| {
                let key = match x.key_kind.as_ref().ok_or_else(|| missing("key_kind"))? {
                    KeyKind::FieldKey(k) => Cel::String(k.as_str().into()),
                    KeyKind::MapKey(k) => node(k, depth)?,
                };
                Ok((key, node(x.value.as_ref().ok_or_else(|| missing("value"))?, depth)?))
            });
            Cel::Map(entries.collect::<Result<Vec<_>>>()?.into())
        }
        E::ComprehensionExpr(c) => {
            if !c.iter_var2.is_empty() {
                return Err(unsupported("two-variable comprehensions").at("iter_var2"));
            }
            Cel::Comprehension(Box::new(Comprehension {
                iter_var: c.iter_var.as_str().into(),
                iter_range: boxed("iter_range", &c.iter_range, depth)?,
                accu_var: c.accu_var.as_str().into(),
                accu_init: boxed("accu_init", &c.accu_init, depth)?,
                loop_condition: boxed("loop_condition", &c.loop_condition, depth)?,
                loop_step: boxed("loop_step", &c.loop_step, depth)?,
                result: boxed("result", &c.result, depth)?,
            }))
        }
    })
}

fn constant(c: &p::Constant) -> Result<Cel> {
    use p::constant::ConstantKind as K;
    Ok(match c.constant_kind.as_ref().ok_or_else(|| missing("constant_kind"))? {
        K::NullValue(_) => Cel::Null,
        K::BoolValue(b) => Cel::Bool(*b),
        K::Int64Value(n) => Cel::Int(*n),
        K::Uint64Value(n) => Cel::Uint(*n),
        K::DoubleValue(n) => Cel::Double(*n),
        K::StringValue(s) => Cel::String(s.as_str().into()),
        K::BytesValue(b) => Cel::Bytes(b.as_slice().into()),
        K::DurationValue(_) | K::TimestampValue(_) => {
            return Err(unsupported("this constant").at("constant_kind"));
        }
    })
}
