//! Pictures as libvirt and the browser's page write them: PNG or portable pixmap (P6), depending on QEMU's version.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use png::{ColorType, Decoder, Transformations};

/// How far a colour may be off: the page's canvas and libvirt round differently.
const TOLERANCE: u8 = 8;

/// A picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        if bytes.starts_with(b"\x89PNG") {
            return Self::from_png(&bytes).with_context(|| path.display().to_string());
        }
        let mut words = Vec::new();
        let mut at = 0;
        while words.len() < 4 {
            let word: Vec<u8> = bytes.iter().skip(at).copied().take_while(|byte| !byte.is_ascii_whitespace()).collect();
            ensure!(at < bytes.len(), "{} ends in its head", path.display());
            at += word.len() + 1;
            if !word.is_empty() {
                words.push(String::from_utf8_lossy(&word).into_owned());
            }
        }
        ensure!(words[0] == "P6" && words[3] == "255", "{} is no pixmap: {words:?}", path.display());
        let (width, height) = (words[1].parse()?, words[2].parse()?);
        let pixels = bytes[at..].to_vec();
        ensure!(pixels.len() == width * height * 3, "{} has {} bytes", path.display(), pixels.len());
        Ok(Self { width, height, pixels })
    }

    fn from_png(bytes: &[u8]) -> Result<Self> {
        let mut decoder = Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().context("too large")?];
        let frame = reader.next_frame(&mut pixels)?;
        ensure!(frame.color_type == ColorType::Rgb, "{:?}", frame.color_type);
        pixels.truncate(frame.buffer_size());
        Ok(Self { width: usize::try_from(frame.width)?, height: usize::try_from(frame.height)?, pixels })
    }

    /// The share of pixels that are the same in both; none if their sizes differ.
    pub fn likeness(&self, other: &Self) -> f64 {
        if (self.width, self.height) != (other.width, other.height) {
            return 0.0;
        }
        let pairs = self.pixels.chunks_exact(3).zip(other.pixels.chunks_exact(3));
        let same =
            pairs.filter(|(left, right)| left.iter().zip(*right).all(|(l, r)| l.abs_diff(*r) <= TOLERANCE)).count();
        same as f64 / (self.width * self.height) as f64
    }

    /// How many pixels are not black.
    pub fn lit(&self) -> usize {
        self.pixels.chunks_exact(3).filter(|pixel| pixel.iter().any(|colour| *colour > TOLERANCE)).count()
    }
}
