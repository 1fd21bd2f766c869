//! The `sluice` binary: everything is in the library, the command line in `sluice::cli`.

/// Many threads allocate and free buffers of very different sizes; mimalloc keeps them apart and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sluice::cli::main().into()
}
