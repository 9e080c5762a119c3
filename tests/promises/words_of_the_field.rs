//! What users read has the words of the field: documents, help, manual page, help texts of metrics, log and error messages, rules
//! and alerts with their runbooks, the dashboard, and the live page.

use std::fs;
use std::path::{Path, PathBuf};

use super::documents_are_linked::{documents, prose};
use super::help_is_complete::{COMMANDS, help};
use crate::support::in_repository;
use crate::support::program::Program;

/// A word that the project does not use for what it means.
struct Replaced {
    /// The word in its forms, in lower case.
    words: &'static [&'static str],
    /// What is written instead.
    by: &'static str,
    /// Phrases in which the word has its ordinary meaning.
    ordinary: &'static [&'static str],
}

const REPLACED: [Replaced; 19] = [
    Replaced { words: &["packed", "packs", "packer"], by: "compressed, gzip encoder", ordinary: &[] },
    Replaced { words: &["hear", "hears", "heard", "hearing"], by: "receive", ordinary: &[] },
    Replaced {
        words: &["tell", "tells", "telling", "told", "say", "says", "saying", "said"],
        by: "report, log, expose, include, list",
        ordinary: &[],
    },
    Replaced { words: &["words", "in a word"], by: "message", ordinary: &[] },
    Replaced { words: &["rise", "rises", "risen", "rising", "rose"], by: "increase, delta", ordinary: &[] },
    Replaced { words: &["birth", "births", "born"], by: "created timestamp", ordinary: &[] },
    Replaced {
        words: &["reading along", "reads along", "read along", "the detail"],
        by: "database mode; counts come from the database",
        ordinary: &[],
    },
    Replaced { words: &["goes on alone", "go on alone"], by: "falls back to the feed", ordinary: &[] },
    Replaced { words: &["on top", "on top of"], by: "is added to the existing totals", ordinary: &[] },
    Replaced { words: &["anew"], by: "again; reconnects; restarts", ordinary: &[] },
    Replaced { words: &["made-up", "made up"], by: "simulated", ordinary: &[] },
    Replaced { words: &["moved aside", "moves aside", "move aside"], by: "quarantined", ordinary: &[] },
    Replaced {
        words: &["the state"],
        by: "the state file, persistent state",
        ordinary: &[
            "the state file",
            "the state of each feed",
            "the state of the bridge",
            "the state of the feed",
            "the state before",
            "the state of a feed",
        ],
    },
    Replaced {
        words: &["that is none", "which is none", "that are none", "that is no", "which is no", "that are no"],
        by: "invalid, not a ...",
        ordinary: &["that is no longer", "that are no longer"],
    },
    Replaced {
        words: &["looked at", "looks at", "look at", "looked into", "looks into", "look into"],
        by: "check, validate",
        ordinary: &["look at the bridge", "to look at one server"],
    },
    Replaced { words: &["asked for", "asks for", "ask for", "asking for"], by: "request, require", ordinary: &[] },
    Replaced {
        words: &["room", "rooms", "house", "blot", "blots", "blotted", "untake", "sound"],
        by: "module, architecture, redact, acknowledge, valid",
        ordinary: &["room for", "room to"],
    },
    Replaced { words: &["waits", "waited for"], by: "is pending", ordinary: &[] },
    Replaced { words: &["keeps", "kept"], by: "persists, stores", ordinary: &["keeps its", "keeps the previous"] },
];

/// Where a text is from, and what it says.
struct Source {
    from: String,
    text: String,
}

/// The files below `folder`, without those in other formats than `extensions`.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![in_repository(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|one| extension == *one)) {
                files.push(path);
            }
        }
    }
    files
}

/// Text without what stands in backticks: names, commands and output of programs.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The string literals of Rust code, without those of its unit tests: messages, help texts, and names.
fn literals(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut literals = Vec::new();
    let mut rest = code;
    // Whatever begins first: a comment, a character, a raw string, or a string.
    while let Some(at) = rest.find(['/', '\'', 'r', '"']) {
        let found = &rest[at..];
        let is_raw = found.starts_with("r\"") || found.starts_with("r#");
        rest = if found.starts_with("//") {
            found.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(rest) = ["'\"'", "'\\\"'", "'\\''"].iter().find_map(|quote| found.strip_prefix(quote)) {
            rest
        } else if is_raw && found.trim_start_matches(['r', '#']).starts_with('"') {
            let hashes = "#".repeat(found[1..].find('"').expect("a quote"));
            let inside = &found[hashes.len() + 2..];
            let (literal, rest) = inside.split_once(&format!("\"{hashes}")).expect("an end of the raw string");
            literals.push(literal.to_owned());
            rest
        } else if let Some(inside) = found.strip_prefix('"') {
            let mut escaped = false;
            let end = inside.find(|character| {
                let is_end = character == '"' && !escaped;
                escaped = character == '\\' && !escaped;
                is_end
            });
            let end = end.expect("an end of the string");
            literals.push(inside[..end].replace("\\n", "\n").replace("\\\n", " "));
            &inside[end + 1..]
        } else {
            &found[1..]
        };
    }
    literals
}

/// A format string without the names of its arguments.
fn without_arguments(text: &str) -> String {
    let between = text.split('{').map(|part| part.split_once('}').map_or(part, |(_, text)| text));
    between.collect::<Vec<_>>().join(" ")
}

/// Everything that users read.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for document in documents() {
        let text = read(&document);
        let text = prose(&text).collect::<Vec<_>>().join("\n");
        sources.push(Source { from: document.display().to_string(), text: without_code(&text) });
    }
    for command in COMMANDS {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        sources.push(Source { from: format!("{args:?}"), text: help(&args) });
    }
    let manual = Program::start_in(&[], ["man"]).end();
    assert_eq!(manual.code, Some(0), "{}", manual.stderr);
    sources.push(Source { from: "man".to_owned(), text: manual.stdout.replace("\\-", "-") });
    // A module of unit tests may be a file.
    for file in files("src", &["rs"]).into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let literals = literals(&read(&file)).into_iter().filter(|literal| literal.contains(' '));
        sources
            .extend(literals.map(|text| Source { from: file.display().to_string(), text: without_arguments(&text) }));
    }
    let mut deployed = files("deploy", &["yml", "json", "service", "default", "txt"]);
    deployed.extend(
        files("src/http/page", &["html", "js"]).into_iter().filter(|file| !file.ends_with("uPlot.iife.min.js")),
    );
    deployed.push(in_repository("docker-compose.yml"));
    sources.extend(deployed.into_iter().map(|file| Source { from: file.display().to_string(), text: read(&file) }));
    sources
}

/// Text in lower case with single spaces, so that a phrase is found across lines.
fn in_one_line(text: &str) -> String {
    text.to_lowercase().split_whitespace().filter(|word| *word != "#" && *word != "//").collect::<Vec<_>>().join(" ")
}

/// Where `word` stands in `text` as a word of its own.
fn occurrences(text: &str, word: &str) -> Vec<usize> {
    let is_of_word = |character: char| character.is_alphanumeric() || "_-".contains(character);
    let stands_alone = |at: &usize| {
        let before = text[..*at].chars().next_back().is_none_or(|character| !is_of_word(character));
        let after = text[at + word.len()..].chars().next().is_none_or(|character| !is_of_word(character));
        before && after
    };
    text.match_indices(word).map(|(at, _)| at).filter(stands_alone).collect()
}

/// The words of [`REPLACED`] in `source`, each with its surroundings and what to write.
fn faults(source: &Source) -> Vec<String> {
    let text = in_one_line(&source.text);
    let mut faults = Vec::new();
    for Replaced { words, by, ordinary } in &REPLACED {
        let allowed = |at: usize, word: &str| {
            let is_within = |phrase: &&str| {
                let starts = text.match_indices(*phrase).map(|(start, _)| start);
                starts.into_iter().any(|start| start <= at && at + word.len() <= start + phrase.len())
            };
            ordinary.iter().any(is_within)
        };
        for word in *words {
            for at in occurrences(&text, word).into_iter().filter(|at| !allowed(*at, word)) {
                let before: String = text[..at].chars().rev().take(40).collect();
                let before: String = before.chars().rev().collect();
                let after: String = text[at..].chars().take(40).collect();
                faults.push(format!("{}: {word:?} in \"{before}{after}\": write {by}", source.from));
            }
        }
    }
    faults
}

#[test]
fn what_users_read_has_no_replaced_word() {
    let sources = sources();
    assert!(sources.len() > 1_000, "only {} texts were found", sources.len());
    let faults = sources.iter().flat_map(faults).collect::<Vec<_>>();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_replaced_word_is_found_wherever_it_stands() {
    let found = |text: &str| faults(&Source { from: String::new(), text: text.to_owned() }).len();
    assert_eq!(found("What the log says."), 1);
    assert_eq!(found("A port\n  that is\n  none."), 1);
    assert_eq!(found("# Whatever is asked\n# for"), 1);
    assert_eq!(found("The state of the feed, the state file, an essay, hear-say, detail_up, is_told."), 0);
}

#[test]
fn every_kind_of_string_literal_is_read() {
    let code = r####"
        const A: &str = "one \" two"; // "a comment"
        const B: char = '"';
        const C: &str = r#"three "four""#;
        /// "documentation"
        #[error("five {0}")]
        const D: &str = "";
        #[cfg(test)]
mod tests { const E: &str = "six"; }"####;
    assert_eq!(literals(code), ["one \\\" two", "three \"four\"", "five {0}", ""]);
}
