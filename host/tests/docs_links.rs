//! Links between the pages of the book lead somewhere, and every page is in its table of contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

/// All pages beneath a directory.
fn pages(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the book is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// A page without its blocks of code.
fn prose(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let mut in_code = false;
    text.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            !in_code && !fence
        })
        .map(str::to_owned)
        .collect()
}

/// What mdbook and the common hosts of repositories make of a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter_map(|c| match c {
            c if c.is_alphanumeric() || matches!(c, '_' | '-') => Some(c.to_ascii_lowercase()),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        })
        .collect()
}

fn anchors(page: &Path) -> BTreeSet<String> {
    prose(page)
        .iter()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

/// Targets of `[text](target)`, also where the text is broken over lines. What is between backquotes is no link.
fn links(page: &Path) -> Vec<String> {
    let text = prose(page).join("\n");
    let plain: String = text.split('`').step_by(2).collect();
    let mut found = Vec::new();
    for (at, _) in plain.match_indices("](") {
        let rest = &plain[at + 2..];
        found.push(rest[..rest.find(')').expect("a link has an end")].to_owned());
    }
    found
}

/// `..` resolved without asking the file system, as a browser does.
fn joined(page: &Path, target: &str) -> PathBuf {
    let mut path = page.parent().expect("a directory").to_owned();
    for component in Path::new(target).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            component => path.push(component),
        }
    }
    path
}

#[test]
fn every_link_leads_to_a_page_and_a_heading_of_it() {
    let root = root();
    let mut pages = pages(&root.join("docs/src"));
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root.join(name)));
    let mut known = BTreeMap::new();
    let (mut seen, mut broken) = (0, Vec::new());
    for page in &pages {
        for link in links(page) {
            if link.starts_with("http://") || link.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                joined(page, file)
            };
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            // A folder is something to look at in a repository, not in a book.
            let in_book = page.starts_with(root.join("docs"));
            let there = (target.is_file() || !in_book && target.is_dir())
                && (heading.is_empty()
                    || is_page
                        && known
                            .entry(target.clone())
                            .or_insert_with(|| anchors(&target))
                            .contains(heading));
            if !there {
                broken.push(format!("{}: {link}", page.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(seen > 50, "only {seen} links were found");
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let book = root().join("docs/src");
    let summary = book.join("SUMMARY.md");
    let mut listed: Vec<PathBuf> = links(&summary)
        .iter()
        .map(|link| joined(&summary, link))
        .collect();
    let mut there: Vec<PathBuf> = pages(&book).into_iter().filter(|page| *page != summary).collect();
    listed.sort();
    there.sort();
    assert_eq!(listed, there);
}
