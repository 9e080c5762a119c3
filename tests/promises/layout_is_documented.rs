//! The maps of modules, in `src/lib.rs` and in `docs/dev/architecture.md`, name every module, and no other; and modules depend on
//! each other as they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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
    let documented = first_column(&read("docs/dev/architecture.md"), "");
    let modules = documented.iter().map(|path| {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path} does not exist");
        path.trim_start_matches("src/").trim_end_matches(".rs").to_owned()
    });
    assert_eq!(modules.collect::<BTreeSet<_>>(), declared());
}

#[test]
fn the_files_that_the_architecture_document_names_exist() {
    let document = read("docs/dev/architecture.md");
    let files = document.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("src/"));
    for file in files {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{file} does not exist");
    }
}

/// Every source file of a module.
fn files(module: &str) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![source.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        files.push(source.join(module).with_extension("rs"));
    }
    files
}

/// The modules that each module names in its code, tests and comments left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let of_module = |module: &String| {
        let mut named = BTreeSet::new();
        for file in files(module) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code = code.lines().map(|line| line.split("//").next().unwrap_or_default());
            for path in code.flat_map(|line| line.split("crate::").skip(1)) {
                let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                assert!(!name.is_empty(), "{}: write one `use crate::module` for each module", file.display());
                named.insert(name);
            }
        }
        named.remove(module);
        named.retain(|name| declared().contains(name));
        (module.clone(), named)
    };
    declared().iter().map(of_module).collect()
}

#[test]
fn no_modules_depend_on_each_other_in_a_circle() {
    let mut left = dependencies();
    assert!(left["exposition"].contains("ledger"), "{left:?}");
    // Whatever depends on nothing that is left is taken away; a circle stays.
    loop {
        let free: Vec<String> = left.iter().filter(|(_, on)| on.is_empty()).map(|(name, _)| name.clone()).collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name, _| !free.contains(name));
        left.values_mut().for_each(|on| on.retain(|name| !free.contains(name)));
    }
    assert_eq!(left, BTreeMap::new());
}

#[test]
fn feed_protocol_http_and_demo_know_no_other_module_but_pem_timers_files_and_reloads() {
    let dependencies = dependencies();
    for module in ["protocol", "demo"] {
        assert_eq!(dependencies[module], BTreeSet::new(), "{module}");
    }
    assert_eq!(dependencies["feed"], BTreeSet::from(["pem", "regular_file", "standstill"].map(str::to_owned)));
    assert_eq!(dependencies["http"], BTreeSet::from(["pem", "reload", "standstill"].map(str::to_owned)));
    assert_eq!(dependencies["reload"], BTreeSet::from(["regular_file".to_owned()]));
    assert_eq!(dependencies["regular_file"], BTreeSet::new());
}

#[test]
fn the_ledger_knows_messages_and_rows_and_nothing_else() {
    let allowed = BTreeSet::from(["protocol".to_owned(), "skills_db".to_owned()]);
    let dependencies = dependencies();
    assert!(dependencies["ledger"].is_subset(&allowed), "{:?}", dependencies["ledger"]);
    for file in ["ledger", "protocol"].into_iter().flat_map(files) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for impure in ["Instant::now", "SystemTime", "std::fs", "std::net", "std::thread", "tokio", "rusqlite"] {
            let is_used = code.lines().any(|line| line.split("//").next().unwrap_or_default().contains(impure));
            assert!(!is_used, "{} uses {impure}", file.display());
        }
    }
}

/// The types and functions that `text` exports at its top level, each as the module that declares it and its name. What is
/// hidden from the documentation is no part of the API, and a constant needs no example.
fn exports(text: &str, module_of: impl Fn(&str) -> String) -> BTreeSet<(String, String)> {
    let mut exports = BTreeSet::new();
    for (before, statement) in text.split("\npub use ").zip(text.split("\npub use ").skip(1)) {
        if before.ends_with("#[doc(hidden)]") {
            continue;
        }
        let (path, names) = statement.split_once(';').and_then(|(path, _)| path.rsplit_once("::")).expect("use a::b;");
        for name in names.trim_matches(['{', '}']).split(',').map(str::trim) {
            assert!(!name.contains('*') && !name.contains(' '), "{name}: export each item by its own name");
            if name.contains(char::is_lowercase) {
                exports.insert((module_of(path), name.to_owned()));
            }
        }
    }
    exports
}

/// The doc comment and the attributes above the declaration of `name` in `module`.
fn above_declaration(module: &str, name: &str) -> String {
    let texts: Vec<_> = files(module).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    // A set of label values is declared by a macro, indented and without a keyword.
    let ends = ["(", "<", " {\n", ";"];
    let of_keyword = |keyword| ends.map(|end| format!("\n{keyword} {name}{end}"));
    let mut forms = ["pub struct", "pub enum", "pub fn"].map(of_keyword).concat();
    forms.push(format!("\n    {name} {{\n    /// "));
    let declaration = |text: &String| forms.iter().find_map(|form| text.find(form)).map(|at| text[..at].to_owned());
    let text = texts.iter().find_map(declaration).unwrap_or_else(|| panic!("{name} is not in {module}"));
    text.rsplit("\n\n").next().unwrap_or_default().to_owned()
}

#[test]
fn each_type_and_function_of_the_api_has_a_doctest() {
    let mut api = exports(&read("src/lib.rs"), str::to_owned);
    let settings = read("src/settings/mod.rs");
    api.extend(exports(&settings, |path| match path.strip_prefix("crate::") {
        Some(module) => module.to_owned(),
        None => format!("settings/{path}"),
    }));
    let declared = settings.split("\npub ").skip(1).filter_map(|item| {
        let (keyword, rest) = item.split_once(' ')?;
        let name = rest.split(|next: char| !next.is_alphanumeric()).next()?;
        ["struct", "enum"].contains(&keyword).then(|| ("settings".to_owned(), name.to_owned()))
    });
    api.extend(declared);
    for known in [("bridge", "ReloadHandle"), ("feed", "Secret"), ("settings/error", "NameError"), ("replay", "replay")]
    {
        assert!(api.contains(&(known.0.to_owned(), known.1.to_owned())), "{known:?} is not found in {api:?}");
    }
    let lacking = api.iter().filter(|(module, name)| {
        let above = above_declaration(module, name);
        !above.contains("#[doc(hidden)]") && !above.contains("/// ```\n")
    });
    assert_eq!(lacking.collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "each needs an example that is a test");
}
