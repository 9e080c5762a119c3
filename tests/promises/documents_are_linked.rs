//! Every page opens with whom it is for, and every link of the documents leads somewhere: to a file of the repository, and to a
//! heading of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::in_repository;

/// The documents of the repository, without licences.
pub fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(in_repository).into();
    let mut folders = vec![in_repository("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents
}

/// The lines of a document that are not code.
pub fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The targets of links and pictures: `](target)`, `src="target"`, `srcset="target"`.
fn targets(text: &str) -> Vec<String> {
    let ends = [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')];
    let in_line = |line: &str| {
        let found = ends.iter().flat_map(|(opening, closing)| {
            line.split(opening)
                .skip(1)
                .filter_map(|rest| rest.split_once(*closing))
                .map(|(target, _)| target.to_owned())
        });
        found.collect::<Vec<_>>()
    };
    prose(text).flat_map(in_line).collect()
}

/// The anchor that the forge makes of a heading: lower case, without punctuation, hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// What is wrong with a link of `document`.
fn fault(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { document.to_owned() } else { document.parent().unwrap().join(file) };
    if !path.exists() {
        return Some(format!("{}: {target}: no such file", document.display()));
    }
    let is_known = fragment.is_empty() || anchors(&fs::read_to_string(&path).unwrap()).contains(fragment);
    (!is_known).then(|| format!("{}: {target}: no such heading", document.display()))
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    let mut faults = Vec::new();
    for document in documents() {
        for target in targets(&fs::read_to_string(&document).unwrap()) {
            links += 1;
            faults.extend(fault(&document, &target));
        }
    }
    assert!(links > 50, "only {links} links were found");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_link_to_a_missing_file_or_heading_is_found() {
    let readme = in_repository("README.md");
    assert!(fault(&readme, "docs/reference/metrics.md#first-values").is_none());
    for broken in ["docs/missing.md", "docs/reference/metrics.md#missing", "#missing"] {
        assert!(fault(&readme, broken).is_some(), "{broken}");
    }
}

#[test]
fn every_page_opens_with_whom_it_is_for() {
    let pages = documents().into_iter().filter(|document| document.starts_with(in_repository("docs")));
    for document in pages {
        let text = fs::read_to_string(&document).unwrap();
        let mut lines = text.lines().filter(|line| !line.is_empty());
        assert!(lines.next().is_some_and(|title| title.starts_with("# ")), "{} has no title", document.display());
        assert!(lines.next().is_some_and(|first| first.starts_with("For ")), "whom is {} for?", document.display());
    }
}
