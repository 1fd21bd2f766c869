//! Runs one parser under libFuzzer: see `fuzz/run`, which builds this with coverage of our own code.
//!
//! `SLUICE_FUZZ_TARGET` names the parser; `SLUICE_FUZZ_EXAMPLES` a folder that gets its good inputs. Without a name it prints them all.
#![no_main]
#![allow(unsafe_code)] // SAFETY: none of ours; the macro exports the functions that libFuzzer calls by name.

use libfuzzer_sys::fuzz_target;
use sluice::fuzzing::{self, TARGETS, Target};
use std::{env, fs, path::Path, sync::LazyLock};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = env::var("SLUICE_FUZZ_TARGET").unwrap_or_default();
    fuzzing::target(&name).unwrap_or_else(|| {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        std::process::exit(i32::from(!name.is_empty()))
    })
});

fuzz_target!(
    init: {
        LazyLock::force(&TARGET);
        if let Ok(folder) = env::var("SLUICE_FUZZ_EXAMPLES") {
            for (n, example) in (TARGET.examples)().iter().enumerate() {
                fs::write(Path::new(&folder).join(format!("example-{n}")), example).expect("the folder can be written");
            }
        }
    },
    |data: &[u8]| (TARGET.run)(data)
);
