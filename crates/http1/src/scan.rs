//! Where does a head end? Looks at every byte once, however many reads the head comes in.

use crate::head::HeadError;

/// Finds the end of a head over several reads without looking at any byte twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    /// Complete lines so far.
    pub(crate) lines: usize,
}

/// What a [`HeadScanner`] saw.
pub(crate) enum Scan {
    Complete(usize),
    Partial { new_line: bool },
}

impl HeadScanner {
    /// Forgets what was scanned; call when the buffer starts with a new message.
    pub fn reset(&mut self) {
        *self = HeadScanner::default();
    }

    pub(crate) fn scan(&mut self, input: &[u8]) -> Result<Scan, HeadError> {
        let before = self.lines;
        while let Some(i) = input.get(self.scanned..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let at = self.scanned + i;
            if at == 0 || input[at - 1] != b'\r' {
                return Err(HeadError::Malformed);
            }
            self.scanned = at + 1;
            self.lines += 1;
            if at >= 3 && input[at - 2] == b'\n' {
                return Ok(Scan::Complete(at + 1));
            }
        }
        self.scanned = input.len();
        Ok(Scan::Partial { new_line: self.lines > before })
    }
}
