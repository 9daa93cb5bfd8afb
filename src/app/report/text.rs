//! Text for HTML, and numbers with their units.

use std::fmt::{self, Display, Write};

/// A text that is shown in HTML as it is: no part of it becomes an element or ends an attribute.
pub struct Escaped<T>(pub T);

impl<T: AsRef<str>> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.as_ref().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // HTML has no such characters.
                c if c.is_control() && !"\n\t".contains(c) => f.write_char(char::REPLACEMENT_CHARACTER)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A number with four digits.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e5).contains(&size) {
        return scientific(value, 2);
    }
    let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
    if size >= 1e4 { grouped(value.round() as u64) } else { format!("{value:.decimals$}") }
}

/// A number as in `2.5e-4`, with at most so many decimals.
pub fn scientific(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{digits}e{exponent}")
}

/// A whole number with commas between its thousands.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share as per cent, without the sign.
pub fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes < 1e9 => format!("{:.0} MB", bytes / 1e6),
        bytes => format!("{:.2} GB", bytes / 1e9),
    }
}

/// `n` and the noun for it.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        let hostile = "</script><img src=x onerror='a(\"&\")'>\u{0}\u{1b}";
        assert_eq!(
            Escaped(hostile).to_string(),
            "&lt;/script&gt;&lt;img src=x onerror=&#39;a(&quot;&amp;&quot;)&#39;&gt;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn numbers_have_four_digits_and_a_unit() {
        let numbers = [0.0, 0.71234, 0.001234, 12.0, -345.67, 12345.6, 1e-4, 2.5e-7, 3.21e9];
        let expected = ["0", "0.7123", "0.001234", "12.00", "-345.7", "12,346", "1e-4", "2.5e-7", "3.21e9"];
        assert_eq!(numbers.map(number), expected);
        assert_eq!([1, 999, 1000, 1234567].map(grouped), ["1", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.26, 59.4, 61.0, 3600.0, 7384.0].map(seconds),
            ["0.3 s", "59.4 s", "1 min 1 s", "1 h 0 min", "2 h 3 min"]
        );
        assert_eq!([210_000_000, 19_840_000_000].map(bytes), ["210 MB", "19.84 GB"]);
        assert_eq!((counted(1, "step"), counted(1200, "step")), ("1 step".into(), "1,200 steps".into()));
    }
}
