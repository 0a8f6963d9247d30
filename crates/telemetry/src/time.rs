//! What does the clock say, in letters? UTC calendar arithmetic and Envoy's time formats.
//!
//! Callers bring the time; nothing here reads a clock.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment split into calendar fields, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// Year, such as 2026.
    pub year: i64,
    /// 1-12
    pub month: u32,
    /// 1-31
    pub day: u32,
    /// 0-23
    pub hour: u32,
    /// 0-59
    pub minute: u32,
    /// 0-59
    pub second: u32,
    /// Nanoseconds within the second.
    pub nanos: u32,
    /// Seconds since the epoch.
    pub unix: i64,
}

/// Seconds and nanoseconds since the epoch; negative seconds before it.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(d) => (d.as_secs() as i64, d.subsec_nanos()),
        Err(e) => {
            let d = e.duration();
            let up = d.subsec_nanos() > 0;
            (-(d.as_secs() as i64) - up as i64, if up { 1_000_000_000 - d.subsec_nanos() } else { 0 })
        }
    }
}

impl From<SystemTime> for Civil {
    fn from(time: SystemTime) -> Self {
        let (unix, nanos) = since_epoch(time);
        let (days, rest) = (unix.div_euclid(86_400), unix.rem_euclid(86_400) as u32);
        // Days since 0000-03-01, in eras of 400 years (Hinnant's civil_from_days).
        let z = days + 719_468;
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
        Self {
            year: yoe + era * 400 + (month <= 2) as i64,
            month,
            day: (doy - (153 * mp + 2) / 5 + 1) as u32,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            nanos,
            unix,
        }
    }
}

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl Civil {
    fn weekday(&self) -> usize {
        self.unix.div_euclid(86_400).rem_euclid(7) as usize
    }

    fn day_of_year(&self) -> u32 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        before[self.month as usize - 1] + self.day + (leap && self.month > 2) as u32
    }

    /// First `digits` (1-9) digits of the second's fraction.
    pub fn fraction(&self, digits: u32, out: &mut String) {
        let text = format!("{:09}", self.nanos);
        out.push_str(&text[..digits.clamp(1, 9) as usize]);
    }

    /// `2016-12-15T16:07:35.123Z`, Envoy's default in access logs and configuration dumps. Years have four digits.
    pub fn rfc3339_millis(&self) -> [u8; 24] {
        let mut out = *b"0000-00-00T00:00:00.000Z";
        let mut put = |from: usize, to: usize, mut n: u32| {
            for digit in out[from..to].iter_mut().rev() {
                *digit = b'0' + (n % 10) as u8;
                n /= 10;
            }
        };
        put(0, 4, self.year.clamp(0, 9999) as u32);
        put(5, 7, self.month);
        put(8, 10, self.day);
        put(11, 13, self.hour);
        put(14, 16, self.minute);
        put(17, 19, self.second);
        put(20, 23, self.nanos / 1_000_000);
        out
    }

    /// `Sat, 21 Nov 2026 03:33:37 GMT`, the HTTP date.
    pub fn http_date(&self, out: &mut String) {
        let _ = write!(
            out,
            "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
            &DAYS[self.weekday()][..3],
            self.day,
            &MONTHS[self.month as usize - 1][..3],
            self.year,
            self.hour,
            self.minute,
            self.second
        );
    }

    /// `strftime` with Envoy's additions: `%3f` and the like (digits of the fraction), `%f` (nine), `%E3S` (seconds with fraction),
    /// `%s` (epoch), `%3s` (epoch in units of that fraction). Unknown letters are written as they are.
    pub fn format(&self, format: &str, out: &mut String) {
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let Some(mut letter) = rest.next() else {
                return out.push('%');
            };
            let mut digits = None;
            if let (Some(d), Some('f' | 's')) = (letter.to_digit(10), rest.peek().copied()) {
                digits = Some(d);
                letter = rest.next().unwrap_or('f');
            } else if letter == 'E' && rest.peek().is_some_and(|c| c.is_ascii_digit() || *c == '*') {
                digits = Some(rest.next().and_then(|d| d.to_digit(10)).unwrap_or(9));
                letter = match rest.next() {
                    Some('S') => '\u{1}',
                    Some('f') => 'f',
                    other => other.unwrap_or('E'),
                };
            }
            let _ = match letter {
                'Y' => write!(out, "{:04}", self.year),
                'C' => write!(out, "{:02}", self.year / 100),
                'y' => write!(out, "{:02}", self.year % 100),
                'm' => write!(out, "{:02}", self.month),
                'd' => write!(out, "{:02}", self.day),
                'e' => write!(out, "{:2}", self.day),
                'H' => write!(out, "{:02}", self.hour),
                'I' => write!(out, "{:02}", (self.hour + 11) % 12 + 1),
                'M' => write!(out, "{:02}", self.minute),
                'S' => write!(out, "{:02}", self.second),
                'j' => write!(out, "{:03}", self.day_of_year()),
                'p' => write!(out, "{}", if self.hour < 12 { "AM" } else { "PM" }),
                'a' => write!(out, "{}", &DAYS[self.weekday()][..3]),
                'A' => write!(out, "{}", DAYS[self.weekday()]),
                'b' | 'h' => write!(out, "{}", &MONTHS[self.month as usize - 1][..3]),
                'B' => write!(out, "{}", MONTHS[self.month as usize - 1]),
                'u' => write!(out, "{}", (self.weekday() + 3) % 7 + 1),
                'w' => write!(out, "{}", (self.weekday() + 4) % 7),
                'F' => write!(out, "{:04}-{:02}-{:02}", self.year, self.month, self.day),
                'D' | 'x' => write!(out, "{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
                'T' | 'X' => write!(out, "{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
                'R' => write!(out, "{:02}:{:02}", self.hour, self.minute),
                'Z' => write!(out, "UTC"),
                'z' => write!(out, "+0000"),
                'n' => writeln!(out),
                't' => write!(out, "\t"),
                '%' => write!(out, "%"),
                'f' => {
                    self.fraction(digits.unwrap_or(9), out);
                    Ok(())
                }
                's' => {
                    let _ = write!(out, "{}", self.unix);
                    if let Some(d) = digits {
                        self.fraction(d, out);
                    }
                    Ok(())
                }
                '\u{1}' => {
                    let _ = write!(out, "{:02}", self.second);
                    if let Some(d) = digits.filter(|d| *d > 0) {
                        out.push('.');
                        self.fraction(d, out);
                    }
                    Ok(())
                }
                other => write!(out, "%{other}"),
            };
        }
    }
}

/// `2016-12-15T16:07:35.123Z`
pub fn rfc3339(time: SystemTime) -> String {
    Civil::from(time).rfc3339_millis().iter().map(|&b| char::from(b)).collect()
}

/// Whole milliseconds of a duration, as Envoy rounds them (down).
pub fn millis(duration: Duration) -> u64 {
    duration.as_millis().min(u64::MAX as u128) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix: u64, nanos: u32) -> Civil {
        Civil::from(UNIX_EPOCH + Duration::new(unix, nanos))
    }

    #[test]
    fn calendar() {
        let check = |unix, text: &str| {
            assert_eq!(at(unix, 123_456_789).rfc3339_millis(), text.as_bytes());
        };
        check(0, "1970-01-01T00:00:00.123Z");
        check(951_782_400, "2000-02-29T00:00:00.123Z");
        check(1_709_251_199, "2024-02-29T23:59:59.123Z");
        check(4_102_444_800, "2100-01-01T00:00:00.123Z");
        check(1_795_232_017, "2026-11-21T03:33:37.123Z");
    }

    #[test]
    fn formats() {
        let check = |format: &str, text: &str| {
            let mut out = String::new();
            at(1_795_232_017, 123_456_789).format(format, &mut out);
            assert_eq!(out, text, "{format}");
        };
        check("%Y/%m/%dT%H:%M:%S%z %s", "2026/11/21T03:33:37+0000 1795232017");
        check("%s.%3f|%3s|%f|%E3S|%6f", "1795232017.123|1795232017123|123456789|37.123|123456");
        check("%a %A %b %j %p %% %Q", "Sat Saturday Nov 325 AM % %Q");
        let mut date = String::new();
        at(1_795_232_017, 0).http_date(&mut date);
        assert_eq!(date, "Sat, 21 Nov 2026 03:33:37 GMT");
    }
}
