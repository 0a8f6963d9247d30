//! Which bytes make a parser misbehave? Targets, corpora and a seeded mutator.
//!
//! A target takes any bytes and must return: a panic is the finding. `cargo xtask test fuzz` runs every target over its
//! corpus and a fixed number of seeded mutations; `cargo run --release -p proa-fuzz -- TARGET --seconds N` goes on for
//! as long as asked and prints the input of a finding. Absent: coverage guidance; the targets are plain functions, so
//! that any engine can call them.

mod connection;
mod http2;
pub mod mutate;
pub mod targets;

use mutate::{Rng, mutate};
use std::path::{Path, PathBuf};

/// A parser under test.
pub struct Target {
    /// Name on the command line, and of the folder of its corpus.
    pub name: &'static str,
    /// Feeds the parser. Must return for every input.
    pub run: fn(&[u8]),
}

/// The inputs from which mutation starts: the files of `corpus/<target>`, in order of name.
pub fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|f| f.expect("a readable folder").path())
        .collect();
    files.sort();
    files.iter().map(|f| std::fs::read(f).expect("a readable corpus file")).collect()
}

/// Runs the corpus of `target`, then mutations from `seed` until `more` says stop. Returns how many inputs ran.
///
/// On a panic the input is printed in a form that pastes into a test, and the panic goes on.
pub fn campaign(target: &Target, seed: u64, mut more: impl FnMut(u64) -> bool) -> u64 {
    let corpus = corpus(target);
    let mut rng = Rng::new(seed);
    let mut count = 0;
    for input in &corpus {
        attempt(target, input, seed);
        count += 1;
    }
    while !corpus.is_empty() && more(count) {
        let mut input = corpus[rng.below(corpus.len())].clone();
        let other = &corpus[rng.below(corpus.len())];
        mutate(&mut input, other, &mut rng);
        attempt(target, &input, seed);
        count += 1;
    }
    count
}

fn attempt(target: &Target, input: &[u8], seed: u64) {
    let finding = Finding { target: target.name, input, seed };
    (target.run)(input);
    std::mem::forget(finding);
}

/// Prints the input when dropped by a panic.
struct Finding<'a> {
    target: &'static str,
    input: &'a [u8],
    seed: u64,
}

impl Drop for Finding<'_> {
    fn drop(&mut self) {
        eprintln!("{} panicked, seed {}: b\"{}\"", self.target, self.seed, self.input.escape_ascii());
    }
}
