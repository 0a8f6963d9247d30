//! What do routes and filters ask of a request?

use super::merge;
use crate::rng::Rng;
use serde_json::{Value, json};

pub fn route(rng: &mut Rng) -> Value {
    let mut m = match rng.below(12) {
        0 => json!({"path": "/a"}),
        1 => json!({"path": "/a/b"}),
        2 => json!({"safe_regex": {"regex": "/[ac]/[0-9b]+.*"}}),
        3 => json!({"path_separated_prefix": "/a"}),
        4 => json!({"prefix": "/a"}),
        5 => json!({"prefix": "/a/b"}),
        6 => json!({"prefix": "/A", "case_sensitive": false}),
        7 => json!({"path": "/A/B", "case_sensitive": false}),
        _ => json!({"prefix": "/"}),
    };
    if rng.one_in(4) {
        merge(&mut m, json!({"headers": [header_matcher(rng)]}));
    }
    if rng.one_in(6) {
        let query = match rng.below(3) {
            0 => json!({"name": "x", "present_match": true}),
            1 => json!({"name": "x", "string_match": {"exact": "1"}}),
            _ => json!({"name": "y", "string_match": {"safe_regex": {"regex": "[0-9]"}}}),
        };
        merge(&mut m, json!({"query_parameters": [query]}));
    }
    if rng.one_in(10) {
        merge(&mut m, json!({"runtime_fraction": {"default_value": {"numerator": rng.below(2) * 100}}}));
    }
    if rng.one_in(12) {
        merge(&mut m, json!({"grpc": {}}));
    }
    m
}

pub fn string_header(rng: &mut Rng) -> Value {
    let value = match rng.below(6) {
        0 => json!({"exact": "1"}),
        1 => json!({"prefix": "v"}),
        2 => json!({"suffix": "2"}),
        3 => json!({"contains": "b", "ignore_case": true}),
        4 => json!({"exact": "VALUE", "ignore_case": true}),
        _ => json!({"safe_regex": {"regex": "v[0-9]"}}),
    };
    json!({"name": rng.pick(&["x-a", "x-b", "user-agent"]), "string_match": value})
}

fn header_matcher(rng: &mut Rng) -> Value {
    let mut h = match rng.below(5) {
        0 => json!({"name": "x-a", "present_match": rng.one_in(2)}),
        1 => json!({"name": "x-n", "range_match": {"start": "1", "end": "10"}}),
        2 => json!({"name": ":method", "string_match": {"exact": "POST"}}),
        _ => string_header(rng),
    };
    if rng.one_in(4) {
        merge(&mut h, json!({"invert_match": true}));
    }
    if rng.one_in(6) {
        merge(&mut h, json!({"treat_missing_header_as_empty": true}));
    }
    h
}
