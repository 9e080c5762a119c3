//! What the program was built from, as `build.rs` recorded it.

/// Version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit of the sources, with `-dirty` where they differed from it; `unknown` where the build saw no repository, and in
/// development builds.
pub(crate) const REVISION: &str = env!("BUILD_INFO_REVISION");

/// Version of the compiler.
pub(crate) const RUSTC: &str = env!("BUILD_INFO_RUSTC");

/// Target triple.
pub(crate) const TARGET: &str = env!("BUILD_INFO_TARGET");

/// What `--version` prints behind the program's name.
pub(crate) const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nrevision: ",
    env!("BUILD_INFO_REVISION"),
    "\nrustc: ",
    env!("BUILD_INFO_RUSTC"),
    "\ntarget: ",
    env!("BUILD_INFO_TARGET"),
);
