//! Does every target survive its corpus and a fixed number of mutations?

use fuzz::targets::TARGETS;

/// Inputs per target and seed: seconds in a debug build.
const INPUTS: u64 = 3_000;

#[test]
fn targets_return_for_every_input() {
    for target in TARGETS {
        for seed in [1, 2] {
            let ran = fuzz::campaign(target, seed, |count| count < INPUTS);
            assert!(ran.inputs >= INPUTS, "{}: {ran:?}", target.name);
        }
    }
}
