//! Numbers, bars and columns as people read them.

use std::time::Duration;

/// `1,234,567`
pub fn count(n: impl Into<i128>) -> String {
    let n = n.into();
    let digits = n.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    if n < 0 {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A decimal as the SDK shows it, with thousands set apart.
pub fn decimal(number: &str) -> String {
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let whole = whole.parse::<i128>().map_or_else(|_| whole.to_owned(), count);
    fraction.map_or_else(|| whole.clone(), |fraction| format!("{whole}.{fraction}"))
}

/// An amount of money with the digits that its currency has.
pub fn amount(number: &str, digits: usize) -> String {
    let text = decimal(number);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if digits == 0 { whole.to_owned() } else { format!("{whole}.{fraction:0<digits$}") }
}

/// `1.4 MiB`
pub fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

/// `12 ms`, `3.4 s`, `2 min 5 s`, `3 h 4 min`
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Records a second; a dash where no time passed.
pub fn rate(records: u64, time: Duration) -> String {
    match per_second(records, time) {
        Some(rate) => format!("{}/s", count(rate.round() as i128)),
        None => "-".to_owned(),
    }
}

/// Records a second, where time passed.
pub fn per_second(records: u64, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (seconds > 0.0).then(|| records as f64 / seconds)
}

/// `12.3 %`
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", share * 100.0) } else { "over".to_owned() }
}

/// A bar of `width` cells of which `share` is filled, by eighths; all of it above 1.
pub fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    let mut eighths = (share * (width * 8) as f64).round() as usize;
    if share > 0.0 {
        // Something is never shown as nothing, and not quite all never as all.
        eighths = eighths.max(1);
    }
    if share < 1.0 {
        eighths = eighths.min(width * 8 - 1);
    }
    let (full, part) = (eighths / 8, EIGHTHS[eighths % 8]);
    let blank = width - full - usize::from(!part.is_empty());
    format!("{}{part}{}", "█".repeat(full), "·".repeat(blank))
}

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows in columns, two blanks apart and indented by two; no blanks at the ends of lines.
pub fn columns(align: &[Align], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..align.len())
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for ((cell, align), &column) in row.iter().zip(align).zip(&widths) {
            let blank = " ".repeat(column - width(cell));
            line.push(' ');
            match align {
                Align::Left => line.extend([cell.as_str(), &blank, " "]),
                Align::Right => line.extend([blank.as_str(), cell, " "]),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Cuts a text to `width` characters, and makes it one line without control characters.
pub fn cut(text: &str, width: usize) -> String {
    let mut clean = text.chars().map(|c| if c.is_control() { '·' } else { c });
    let kept: String = clean.by_ref().take(width).collect();
    if clean.next().is_none() {
        return kept;
    }
    kept.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(count(n), text);
        }
        assert_eq!(decimal("1234567.5"), "1,234,567.5");
        assert_eq!([amount("1234.5", 2), amount("7", 2), amount("7", 0)], ["1,234.50", "7.00", "7"]);
        assert_eq!([bytes(0), bytes(1_023), bytes(1_536), bytes(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let time = |millis| duration(Duration::from_millis(millis));
        assert_eq!(
            [time(12), time(3_420), time(125_000), time(11_040_000)],
            ["12 ms", "3.4 s", "2 min 5 s", "3 h 4 min"]
        );
        assert_eq!(rate(10_000, Duration::from_millis(500)), "20,000/s");
        assert_eq!(rate(1, Duration::ZERO), "-");
        assert_eq!([percent(0.1234), percent(f64::INFINITY)], ["12.3 %", "over"]);
    }

    #[test]
    fn bars() {
        assert_eq!(bar(0.0, 4), "····");
        assert_eq!(bar(0.0001, 4), "▏···");
        assert_eq!(bar(0.5, 4), "██··");
        assert_eq!(bar(0.99999, 4), "███▉");
        assert_eq!([bar(1.0, 4), bar(7.0, 4), bar(f64::INFINITY, 4)], ["████", "████", "████"]);
        assert_eq!([bar(f64::NAN, 2), bar(-1.0, 2)], ["··", "··"]);
    }

    #[test]
    fn tables_and_cuts() {
        let rows = [["a", "1"], ["bcd", "100"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&[Align::Left, Align::Right], &rows), "  a      1\n  bcd  100\n");
        assert_eq!([cut("abc", 3), cut("abcd", 3), cut("a\nb", 3)], ["abc", "ab…", "a·b"]);
    }
}
