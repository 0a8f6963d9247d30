//! Which bytes make a parser misbehave? Targets, corpora and a seeded mutator.
//!
//! A target takes any bytes and must return: a panic is the finding. `cargo xtask test fuzz` runs every target over its
//! corpus and a fixed number of seeded mutations; `cargo xtask fuzz` builds with coverage and lets every target go on for
//! as long as asked, mutating what reached new code. A finding's input is printed.

mod connection;
#[cfg(feature = "guided")]
mod guide;
mod http2;
pub mod mutate;
pub mod targets;

use mutate::{Rng, mutate};
use std::path::{Path, PathBuf};

/// Most inputs kept for mutation beside the corpus.
#[cfg(feature = "guided")]
const KEPT_MAX: usize = 8192;

/// A parser under test.
pub struct Target {
    /// Name on the command line, and of the folder of its corpus.
    pub name: &'static str,
    /// Feeds the parser. Must return for every input.
    pub run: fn(&[u8]),
}

/// What a campaign did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ran {
    /// Inputs tried.
    pub inputs: u64,
    /// Inputs that reached new code, the corpus's own among them. Zero without the feature `guided`.
    pub kept: usize,
    /// Places of the code reached. Zero without the feature `guided`.
    pub places: usize,
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

/// Runs the corpus of `target`, then mutations from `seed` until `more` says stop.
///
/// On a panic the input is printed in a form that pastes into a test, and the panic goes on.
pub fn campaign(target: &Target, seed: u64, mut more: impl FnMut(u64) -> bool) -> Ran {
    #[cfg_attr(not(feature = "guided"), expect(unused_mut, reason = "nothing is kept without a guide"))]
    let mut pool = corpus(target);
    let mut rng = Rng::new(seed);
    let mut ran = Ran::default();
    #[cfg(feature = "guided")]
    let mut guide = guide::Guide::new();
    for input in &pool {
        attempt(target, input, seed);
        ran.inputs += 1;
        #[cfg(feature = "guided")]
        {
            ran.kept += usize::from(guide.is_new());
        }
    }
    while !pool.is_empty() && more(ran.inputs) {
        let mut input = pool[rng.below(pool.len())].clone();
        let other = &pool[rng.below(pool.len())];
        mutate(&mut input, other, &mut rng);
        attempt(target, &input, seed);
        ran.inputs += 1;
        #[cfg(feature = "guided")]
        if guide.is_new() && pool.len() < KEPT_MAX {
            ran.kept += 1;
            pool.push(input);
        }
    }
    #[cfg(feature = "guided")]
    {
        ran.places = guide.places();
    }
    ran
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
