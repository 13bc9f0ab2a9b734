//! The lines of a history file, plain or zstd, each with its number, and the digest of the whole file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use domain::append::EVENT_BYTES_MAX;
use sha2::{Digest, Sha256};

use super::BadLine;

/// A line is at most this long: an event may be spelled with more white space than it is stored with.
const LINE_BYTES_MAX: usize = 2 * EVENT_BYTES_MAX;
/// First bytes of a zstd frame (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BUFFER_BYTES: usize = 256 << 10;

/// A file that is hashed as it is read.
struct Hashing {
    file: File,
    digest: Sha256,
    bytes: u64,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.digest.update(&buffer[..length]);
        self.bytes += u64::try_from(length).expect("a buffer's length fits");
        Ok(length)
    }
}

enum Source {
    Plain(BufReader<Hashing>),
    Zstd(Box<BufReader<zstd::Decoder<'static, BufReader<Hashing>>>>),
}

/// What a whole file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digested {
    /// SHA-256 of its bytes as they lie on disk.
    pub(super) sha256: [u8; 32],
    /// Their number.
    pub(super) bytes: u64,
}

/// A line and its number, from 1.
type Numbered<'a> = (u64, &'a [u8]);

/// Reads a file line by line.
pub(super) struct Lines {
    source: Source,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let hashing = Hashing { file: File::open(path)?, digest: Sha256::new(), bytes: 0 };
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, hashing);
        let source = if plain.fill_buf()?.starts_with(&ZSTD_MAGIC) {
            Source::Zstd(Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(plain)?)))
        } else {
            Source::Plain(plain)
        };
        Ok(Self { source, line: Vec::new(), number: 0 })
    }

    /// The next line without its end, and its number from 1; `None` at the end. Empty lines are passed over.
    pub(super) fn next(&mut self) -> Result<Option<Numbered<'_>>, BadLine> {
        loop {
            self.number += 1;
            self.line.clear();
            let limit = u64::try_from(LINE_BYTES_MAX + 1).expect("a small number");
            let read = match &mut self.source {
                Source::Plain(reader) => reader.take(limit).read_until(b'\n', &mut self.line),
                Source::Zstd(reader) => reader.take(limit).read_until(b'\n', &mut self.line),
            };
            match read {
                Err(error) => return Err(BadLine { line: self.number, reason: error.to_string() }),
                Ok(0) => return Ok(None),
                Ok(_) => {}
            }
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            } else if self.line.len() > LINE_BYTES_MAX {
                let reason = format!("it is over {LINE_BYTES_MAX} bytes");
                return Err(BadLine { line: self.number, reason });
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((self.number, &self.line)));
            }
        }
    }

    /// What the whole file is; reads what is left of it.
    pub(super) fn finish(self) -> io::Result<Digested> {
        let mut hashing = match self.source {
            Source::Plain(reader) => reader.into_inner(),
            Source::Zstd(reader) => reader.into_inner().finish().into_inner(),
        };
        io::copy(&mut hashing, &mut io::sink())?;
        Ok(Digested { sha256: hashing.digest.finalize().into(), bytes: hashing.bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> (Vec<(u64, String)>, Digested) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("written");
        let mut lines = Lines::open(file.path()).expect("opened");
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next().expect("read") {
            all.push((number, String::from_utf8(line.to_vec()).expect("UTF-8")));
        }
        (all, lines.finish().expect("finished"))
    }

    #[test]
    fn plain_and_compressed_files_have_the_same_lines_and_each_its_own_digest() {
        let text = b"one\n\ntwo\r\nthree";
        // Two frames: concatenated zstd files are one.
        let mut compressed = zstd::encode_all(&text[..6], 3).expect("compressed");
        compressed.extend(zstd::encode_all(&text[6..], 3).expect("compressed"));
        let expected = vec![(1, "one".to_owned()), (3, "two\r".to_owned()), (4, "three".to_owned())];
        for bytes in [&text[..], &compressed] {
            let (lines, digested) = read(bytes);
            assert_eq!(lines, expected);
            assert_eq!(digested.sha256, <[u8; 32]>::from(Sha256::digest(bytes)));
            assert_eq!(digested.bytes, u64::try_from(bytes.len()).expect("small"));
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(&vec![b'x'; LINE_BYTES_MAX + 10]).expect("written");
        let mut lines = Lines::open(file.path()).expect("opened");
        assert_eq!(lines.next().expect_err("refused").line, 1);
    }
}
