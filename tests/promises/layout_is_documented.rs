//! The maps of modules, in `src/lib.rs` and in `docs/architecture.md`, name every module, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The modules that `src/lib.rs` declares, but for the hidden one.
fn declared() -> BTreeSet<String> {
    let library = read("src/lib.rs");
    let declarations = library.lines().filter_map(|line| {
        let name = line.strip_suffix(';')?.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(name.to_owned())
    });
    declarations.collect()
}

/// What stands between backquotes in the first column of every table of `text`, whose lines begin with `prefix`.
fn first_column(text: &str, prefix: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix(prefix)?.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_map_of_the_library_is_complete() {
    let declared = declared();
    assert!(declared.contains("ledger") && declared.contains("protocol"), "{declared:?}");
    assert_eq!(first_column(&read("src/lib.rs"), "//! "), declared);
}

#[test]
fn the_map_of_the_architecture_document_is_complete() {
    let documented = first_column(&read("docs/architecture.md"), "");
    let modules = documented.iter().map(|path| {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path} does not exist");
        path.trim_start_matches("src/").trim_end_matches(".rs").to_owned()
    });
    assert_eq!(modules.collect::<BTreeSet<_>>(), declared());
}

#[test]
fn the_files_that_the_architecture_document_names_exist() {
    let document = read("docs/architecture.md");
    let files = document.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("src/"));
    for file in files {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{file} does not exist");
    }
}
