//! What do tests of several crates need? Exact-bytes HTTP/1, and load that counts every failure.
//!
//! Only tests and benches depend on it. Deliberately independent of `http1`: what checks the codec must not share its bugs.

pub mod http;
pub mod load;
