//! What do debug lines show of a head? Envoy's list of quoted names and values, made only when a line is written.

use std::fmt;

use http1::HeaderBlock;

/// `'name', 'value'` per line.
pub struct Heads<'a>(pub &'a HeaderBlock);

impl fmt::Display for Heads<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.0 {
            writeln!(f, "'{}', '{}'", String::from_utf8_lossy(name), String::from_utf8_lossy(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_field() {
        let mut block = HeaderBlock::new();
        block.add(b":path", b"/");
        block.add(b"x-a", b"1");
        assert_eq!(Heads(&block).to_string(), "':path', '/'\n'x-a', '1'\n");
    }
}
