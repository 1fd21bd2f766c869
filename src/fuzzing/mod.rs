//! Every parser of what others wrote, as a function of bytes, for fuzzers. Only in tests and with the feature `fuzzing`.
//!
//! A target panics when a promise is broken: a parser panics, or what it took is not what comes back when it is written and read again.
//! Formats under a checksum get theirs put right ([`formats`]), so that what a fuzzer changes reaches what lies behind it.
//! `fuzz/run` fuzzes them with coverage; a unit test here goes through the corpus that it keeps and through some changes of it.

mod formats;
mod segment;
mod text;

/// A parser.
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Reads the bytes and checks what came of them.
    pub run: fn(&[u8]),
    /// Good inputs to begin with.
    pub examples: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($module:ident::$name:ident),+ $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $module::$name::run,
            examples: $module::$name::examples,
        }),+];
    };
}

targets![
    text::entries,
    text::query,
    text::search,
    text::cursor,
    text::token,
    text::keys,
    text::import,
    text::foreign,
    formats::pack,
    formats::envelope,
    formats::seal,
    formats::seal_object,
    formats::checkpoint,
    formats::manifest,
    segment::log,
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::Dice;
    use std::{io::Read, path::Path};

    /// Changed inputs of each target; `SLUICE_FUZZ` asks for more.
    const CHANGED: u64 = 2_000;
    /// Longer inputs are not made.
    const LONGEST: usize = 4_096;

    /// The inputs that `fuzz/run` has found worth keeping: regular files of a tar archive, gzipped.
    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/corpus/{name}.tar.gz"));
        let (file, mut archive) = (std::fs::File::open(&path).expect("each target has a corpus"), Vec::new());
        flate2::read::GzDecoder::new(file).read_to_end(&mut archive).expect("a whole archive");
        let (mut inputs, mut rest) = (Vec::new(), &archive[..]);
        while let Some((header, after)) = rest.split_at_checked(512).filter(|(header, _)| header[0] != 0) {
            let size = std::str::from_utf8(&header[124..135]).expect("digits");
            let size = usize::from_str_radix(size.trim(), 8).expect("an octal number");
            if header[156] == b'0' {
                inputs.push(after[..size].to_vec());
            }
            rest = &after[size.next_multiple_of(512)..];
        }
        inputs
    }

    /// Flips, overwrites, cuts, repeats and joins.
    fn change(dice: &mut Dice, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[dice.below(inputs.len() as u64) as usize].clone();
        for _ in 0..=dice.below(4) {
            let at = dice.below(input.len() as u64 + 1) as usize;
            let upto = at + dice.below((input.len() - at).min(64) as u64 + 1) as usize;
            match dice.below(6) {
                0 if at < input.len() => input[at] ^= 1 << dice.below(8),
                1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', dice.roll() as u8][dice.below(8) as usize],
                2 => drop(input.drain(at..upto)),
                3 => {
                    let piece = input[at..upto].to_vec();
                    input.splice(at..at, piece);
                }
                4 => {
                    let other = &inputs[dice.below(inputs.len() as u64) as usize];
                    let from = dice.below(other.len() as u64 + 1) as usize;
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                _ => input[at..upto].iter_mut().for_each(|byte| *byte = dice.roll() as u8),
            }
            input.truncate(LONGEST);
        }
        input
    }

    #[test]
    fn no_parser_panics_or_changes_what_it_reads() {
        let changed = std::env::var("SLUICE_FUZZ").ok().map_or(CHANGED, |text| text.parse().expect("a number"));
        let seed = std::env::var("SLUICE_SEED")
            .ok()
            .map_or_else(rand::random, |text| text.parse().expect("a number"));
        println!("SLUICE_SEED={seed} SLUICE_FUZZ={changed}");
        for target in TARGETS {
            let mut inputs = (target.examples)();
            assert!(!inputs.is_empty(), "{} has no example", target.name);
            inputs.extend(corpus(target.name));
            inputs.iter().for_each(|input| (target.run)(input));
            let mut dice = Dice::new(seed);
            for _ in 0..changed {
                let input = change(&mut dice, &inputs);
                let ran = std::panic::catch_unwind(|| (target.run)(&input));
                assert!(ran.is_ok(), "{}, SLUICE_SEED={seed}: {}", target.name, input.escape_ascii());
            }
            println!("{}: {} kept inputs, {changed} changed", target.name, inputs.len());
        }
    }
}
