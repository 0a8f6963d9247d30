//! Does this selector choose those labels? Shared by services, policies, gateways and the injector.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels, annotations: sorted text to text.
pub type Labels = BTreeMap<String, String>;

/// Equality-based selection on [`Labels`].
pub trait LabelsExt {
    /// Whether each of these pairs is present in `labels`. The empty set selects everything.
    fn subset_of(&self, labels: &Labels) -> bool;
}

impl LabelsExt for Labels {
    fn subset_of(&self, labels: &Labels) -> bool {
        self.iter().all(|(k, v)| labels.get(k) == Some(v))
    }
}

/// Operator of a set-based requirement, in Kubernetes's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The value is one of the listed ones.
    In,
    /// The value is absent or none of the listed ones.
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// One set-based requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// How to compare.
    pub operator: Operator,
    /// Operands of `In` and `NotIn`.
    pub values: Vec<String>,
}

/// A Kubernetes `LabelSelector`. Empty selects everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selector {
    /// Pairs that must be present.
    pub match_labels: Labels,
    /// Further requirements, all of which must hold.
    pub match_expressions: Vec<Requirement>,
}

impl Selector {
    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.subset_of(labels) && self.match_expressions.iter().all(|r| r.matches(labels))
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|v| self.values.contains(v));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        let labels: Labels = [("app".to_owned(), "web".to_owned())].into();
        let check = |operator, values: &[&str], key: &str, want| {
            let values = values.iter().map(|v| (*v).to_owned()).collect();
            let selector = Selector {
                match_expressions: vec![Requirement { key: key.to_owned(), operator, values }],
                ..Default::default()
            };
            assert_eq!(selector.matches(&labels), want, "{operator:?} {key}");
        };
        check(Operator::In, &["web", "db"], "app", true);
        check(Operator::In, &["db"], "app", false);
        check(Operator::NotIn, &["db"], "app", true);
        check(Operator::NotIn, &["db"], "missing", true);
        check(Operator::Exists, &[], "app", true);
        check(Operator::DoesNotExist, &[], "app", false);
        assert!(Selector::default().matches(&labels));
        assert!(!Labels::from([("app".into(), "db".into())]).subset_of(&labels));
    }
}
