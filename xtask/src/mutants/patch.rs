// SPDX-License-Identifier: MIT OR Apache-2.0
//! One mutant: `tests/mutants/NAME.patch`, a unified diff of kmod/ that takes one guard away, below
//! a header of lines `Guard:`, `Why:`, `Caught-by:` (words of `cargo xtask test`) and, where only
//! KASAN sees it, `Kernel: sanitize`. A line that begins with a blank goes on with the one above.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::host;
use crate::kmod::Source;

#[derive(Debug)]
pub struct Mutant {
    pub name: String,
    /// What is taken away, in a sentence.
    pub guard: String,
    /// What it is there for.
    pub why: String,
    /// The tests that must fail, as filters.
    pub tests: Vec<String>,
    /// Runs on the debug kernel.
    pub sanitize: bool,
    path: PathBuf,
}

impl Mutant {
    /// All of them whose name contains one of `filter`, in the order of their names.
    pub fn all(filter: &[String]) -> Result<Vec<Mutant>> {
        let dir = host::repo().join("tests/mutants");
        let list =
            fs::read_dir(&dir).with_context(|| format!("failed to read `{}`", dir.display()))?;
        let mut paths = Vec::new();
        for entry in list {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "patch") {
                paths.push(path);
            }
        }
        paths.sort();
        let mutants: Vec<_> = paths.into_iter().map(Mutant::read).collect::<Result<_>>()?;
        Ok(mutants
            .into_iter()
            .filter(|m| filter.is_empty() || filter.iter().any(|f| m.name.contains(f.as_str())))
            .collect())
    }

    fn read(path: PathBuf) -> Result<Mutant> {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Mutant::parse(&name, &text, &path).with_context(|| format!("in `{}`", path.display()))
    }

    fn parse(name: &str, text: &str, path: &Path) -> Result<Mutant> {
        let mut fields: Vec<(&str, String)> = Vec::new();
        for line in text.lines().take_while(|line| !line.starts_with("--- ")) {
            match (
                line.starts_with(' '),
                line.split_once(": "),
                fields.last_mut(),
            ) {
                (true, _, Some((_, value))) => {
                    value.push(' ');
                    value.push_str(line.trim());
                }
                (false, Some((key, value)), _) => fields.push((key, value.to_owned())),
                _ if line.is_empty() => {}
                _ => bail!("`{line}` is no line of a header"),
            }
        }
        let mut take = |key: &str| {
            let at = fields.iter().position(|(name, _)| *name == key);
            at.map(|at| fields.remove(at).1)
        };
        let mut needed =
            |key: &str| take(key).with_context(|| format!("there is no line `{key}: …`"));
        let (guard, why) = (needed("Guard")?, needed("Why")?);
        let tests = needed("Caught-by")?;
        let kernel = take("Kernel");
        if !matches!(kernel.as_deref(), None | Some("sanitize")) {
            bail!("`Kernel:` can only be `sanitize`");
        }
        if let Some((key, _)) = fields.first() {
            bail!("`{key}:` means nothing");
        }
        Ok(Mutant {
            name: name.to_owned(),
            guard,
            why,
            tests: tests.split_whitespace().map(str::to_owned).collect(),
            sanitize: kernel.is_some(),
            path: path.to_path_buf(),
        })
    }

    /// The driver without the guard. `scratch` is emptied and used.
    pub fn apply(&self, sources: &[Source], scratch: &Path) -> Result<Vec<Source>> {
        if scratch.exists() {
            fs::remove_dir_all(scratch)?;
        }
        for (name, data) in sources {
            let path = scratch.join(name);
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(path, data)?;
        }
        let patch = ["-p1", "--fuzz=0", "--no-backup-if-mismatch", "--directory"];
        let mut command = Command::new("patch");
        command
            .args(patch)
            .arg(scratch)
            .arg("--input")
            .arg(&self.path);
        host::output(&mut command)
            .with_context(|| format!("failed to apply `{}`", self.path.display()))?;
        let mut changed = Vec::new();
        for (name, _) in sources {
            changed.push((name.clone(), fs::read(scratch.join(name))?));
        }
        if changed == sources {
            bail!("`{}` changes nothing of the driver", self.path.display());
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmod;

    /// What nobody could run would prove nothing.
    #[test]
    fn every_patch_applies_and_names_tests_that_exist() {
        let mutants = Mutant::all(&[]).unwrap();
        assert!(!mutants.is_empty());
        let sources = kmod::sources().unwrap();
        let tests = vm_tests(&host::repo().join("tests/vm"));
        let scratch = std::env::temp_dir().join(format!("ubd-mutants-{}", std::process::id()));
        for mutant in &mutants {
            mutant.apply(&sources, &scratch).unwrap();
            for filter in &mutant.tests {
                let quoted = format!("\"{filter}\"");
                assert!(
                    tests.contains(&quoted),
                    "{}: there is no test `{filter}`",
                    mutant.name
                );
            }
        }
        fs::remove_dir_all(&scratch).unwrap();
    }

    fn vm_tests(dir: &Path) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                text += &vm_tests(&path);
            } else {
                text += &fs::read_to_string(&path).unwrap();
            }
        }
        text
    }

    #[test]
    fn a_header_is_read() {
        let text =
            "Guard: a thing\nWhy: one\n two\nCaught-by: a/b c/d\nKernel: sanitize\n\n--- a/x\n";
        let mutant = Mutant::parse("m", text, Path::new("m.patch")).unwrap();
        assert_eq!(mutant.why, "one two");
        assert_eq!(mutant.tests, ["a/b", "c/d"]);
        assert!(mutant.sanitize);
    }

    #[test]
    fn a_header_with_something_else_or_less_is_refused() {
        for text in [
            "Guard: a\nWhy: b\n--- a/x\n",
            "Guard: a\nWhy: b\nCaught-by: c\nKernel: 7.3\n",
            "Guard: a\nWhy: b\nCaught-by: c\nCaught: c\n",
            "Guard: a\nWhy: b\nCaught-by: c\nnothing\n",
        ] {
            Mutant::parse("m", text, Path::new("m.patch")).unwrap_err();
        }
    }
}
