//! Lines out of a stream of bytes that comes in blocks of any size.

use memchr::{memchr, memrchr};
use subscription_core::{MAX_PAYLOAD_BYTES, TOO_LARGE_KEPT_BYTES};

/// What is held of a line at most: the longest payload that is looked into, and a CR that may end it.
const MAX_HELD_BYTES: usize = MAX_PAYLOAD_BYTES as usize + 1;

/// Takes what a [`Splitter`] finds, in the order of the stream.
pub trait Lines {
    /// Whole lines, each with its LF; only the last line of an input may lack it.
    fn lines(&mut self, chunk: &[u8]);

    /// A line too long to be held: how it begins, and its length in bytes.
    fn long_line(&mut self, head: &[u8], len: u64);
}

/// Cuts blocks into chunks of whole lines. Most bytes are not copied: only a line that lies in two blocks is.
///
/// A line that is longer than [`MAX_PAYLOAD_BYTES`] is not held: its beginning is kept and its bytes are counted.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The beginning of a line that goes on in the next block.
    open: Vec<u8>,
    /// How long that line is so far, once it is too long to be held.
    long: Option<Long>,
}

#[derive(Debug)]
struct Long {
    len: u64,
    ends_in_cr: bool,
}

impl Splitter {
    /// Takes the next block.
    pub fn push(&mut self, mut block: &[u8], lines: &mut impl Lines) {
        if self.is_open() {
            match memchr(b'\n', block) {
                Some(end) => {
                    self.extend(&block[..=end]);
                    self.close(lines);
                    block = &block[end + 1..];
                }
                None => return self.extend(block),
            }
        }
        if let Some(end) = memrchr(b'\n', block) {
            let (whole, rest) = block.split_at(end + 1);
            lines.lines(whole);
            block = rest;
        }
        self.extend(block);
    }

    /// Ends the input: a last line without a line end is a line too.
    pub fn end(&mut self, lines: &mut impl Lines) {
        if self.is_open() {
            self.close(lines);
        }
    }

    /// Forgets a line that was begun, as the end of a broken input.
    pub fn discard(&mut self) {
        *self = Self::default();
    }

    fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    fn extend(&mut self, bytes: &[u8]) {
        // A line end is only there at the end of what closes a line.
        let content = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if let Some(long) = &mut self.long {
            long.len += content.len() as u64;
            long.ends_in_cr = content.last().map_or(long.ends_in_cr, |&b| b == b'\r');
        } else if self.open.len() + content.len() > MAX_HELD_BYTES {
            let last = content.last().or(self.open.last());
            self.long = Some(Long { len: (self.open.len() + content.len()) as u64, ends_in_cr: last == Some(&b'\r') });
            let missing = TOO_LARGE_KEPT_BYTES.saturating_sub(self.open.len()).min(content.len());
            self.open.extend_from_slice(&content[..missing]);
            self.open.truncate(TOO_LARGE_KEPT_BYTES);
            self.open.shrink_to_fit();
        } else {
            self.open.extend_from_slice(bytes);
        }
        if let (Some(long), true) = (&mut self.long, bytes.len() > content.len()) {
            long.len -= u64::from(std::mem::take(&mut long.ends_in_cr));
        }
    }

    fn close(&mut self, lines: &mut impl Lines) {
        match self.long.take() {
            Some(long) => lines.long_line(&self.open, long.len),
            None => lines.lines(&self.open),
        }
        self.open.clear();
    }
}

/// The lines of a chunk of whole lines, without their line ends.
pub fn lines_of(chunk: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = chunk;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, after) = match memchr(b'\n', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => return Some(std::mem::take(&mut rest)),
        };
        rest = after;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// As [`lines_of`], from the last line to the first.
pub fn lines_backwards(chunk: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = chunk;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (content, ended) = match rest.strip_suffix(b"\n") {
            Some(content) => (content, true),
            None => (rest, false),
        };
        let start = memrchr(b'\n', content).map_or(0, |at| at + 1);
        rest = &rest[..start];
        let line = &content[start..];
        Some(if ended { line.strip_suffix(b"\r").unwrap_or(line) } else { line })
    })
}

/// How many lines a chunk of whole lines has.
pub fn count_lines(chunk: &[u8]) -> u64 {
    let ends = memchr::memchr_iter(b'\n', chunk).count() as u64;
    ends + u64::from(chunk.last().is_some_and(|&b| b != b'\n'))
}

/// Whether a line has nothing but blanks; such lines are counted and skipped.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default, Debug, PartialEq)]
    struct Kept(Vec<(Vec<u8>, u64)>);

    impl Lines for Kept {
        fn lines(&mut self, chunk: &[u8]) {
            let before = self.0.len();
            self.0.extend(lines_of(chunk).map(|line| (line.to_vec(), line.len() as u64)));
            assert_eq!(count_lines(chunk), (self.0.len() - before) as u64);
            let mut backwards: Vec<_> = lines_backwards(chunk).map(<[u8]>::to_vec).collect();
            backwards.reverse();
            assert!(self.0[before..].iter().map(|(line, _)| line).eq(&backwards));
        }

        fn long_line(&mut self, head: &[u8], len: u64) {
            self.0.push((head.to_vec(), len));
        }
    }

    fn split(blocks: &[&[u8]]) -> Vec<(Vec<u8>, u64)> {
        let (mut splitter, mut kept) = (Splitter::default(), Kept::default());
        for block in blocks {
            splitter.push(block, &mut kept);
        }
        splitter.end(&mut kept);
        kept.0
    }

    fn texts(blocks: &[&[u8]]) -> Vec<String> {
        split(blocks).into_iter().map(|(line, _)| String::from_utf8(line).expect("text")).collect()
    }

    #[test]
    fn line_ends() {
        assert_eq!(texts(&[b"a\nb\r\n\r\n\nc\rd"]), ["a", "b", "", "", "c\rd"]);
        assert_eq!(texts(&[b"a\r", b"\nb\r"]), ["a", "b\r"]);
        assert_eq!(texts(&[b"", b"\n"]), [""]);
        assert!(texts(&[b""]).is_empty());
        assert!(is_blank(b" \t") && is_blank(b"") && !is_blank(b" {"));
    }

    #[test]
    fn a_line_above_the_limit_is_counted_and_not_held() {
        let max = MAX_PAYLOAD_BYTES as usize;
        let line = vec![b'x'; max + 2];
        let whole = |len: usize, end: &[u8]| [&line[..len], end, b"after"].concat();
        for (len, end) in [(max, &b"\n"[..]), (max, b"\r\n"), (max + 1, b"\n"), (max + 1, b"\r\n"), (max + 2, b"\r\n")]
        {
            let input = whole(len, end);
            for block in [1 << 20, 1_000_003, max, max + 1, max + 2, input.len()] {
                let blocks: Vec<_> = input.chunks(block).collect();
                let found = split(&blocks);
                assert_eq!(found.len(), 2, "{len} {end:?} in {block}");
                assert_eq!(found[0].1, len as u64, "{end:?} in {block}");
                assert!(found[0].0.len() >= TOO_LARGE_KEPT_BYTES && found[0].0.iter().all(|&b| b == b'x'));
                assert_eq!(found[1].0, b"after");
            }
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let (mut splitter, mut kept) = (Splitter::default(), Kept::default());
        let block = vec![b'x'; 1 << 20];
        for _ in 0..50 {
            splitter.push(&block, &mut kept);
        }
        assert!(splitter.open.capacity() <= 2 * TOO_LARGE_KEPT_BYTES, "{}", splitter.open.capacity());
        splitter.push(b"\r\n", &mut kept);
        assert_eq!(kept.0, [(vec![b'x'; TOO_LARGE_KEPT_BYTES], 50 << 20)]);
    }

    proptest! {
        #[test]
        fn blocks_do_not_matter(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut <= input.len()).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let blocks: Vec<_> = cuts.windows(2).map(|w| &input[w[0]..w[1]]).collect();
            prop_assert_eq!(split(&blocks), split(&[&input]));
        }
    }
}
