//! Planted bugs: each must be caught, or the simulator proves nothing by its silence.
//!
//! A mutant is a patch in `sim/mutants/`, which stands behind a switch ([`SWITCH`]): so all of them
//! are built at once, in a copy of the tree, and each run turns one on. (Mutant schemata, after
//! Untch, Offutt and Harrold 1993.) The tree itself never holds one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::child::{self, Done};
use crate::pool;

/// The environment variable that names the mutant that is on.
const SWITCH: &str = "IMGW_MUTANT";
/// Where the patches are, below the project's root; `switch.rs` there becomes `cluster::mutant`.
const PATCHES: &str = "sim/mutants";

/// How a line of `run` begins that tells of a violation.
const VIOLATIONS: [&str; 4] = ["Safety: ", "Liveness: ", "Determinism: ", "Harness: "];

/// A planted bug.
#[derive(Debug)]
struct Mutant {
    name: String,
    /// What is wrong, in a sentence.
    what: String,
    /// What a violation that catches it says, such as `G2`.
    oracle: String,
    /// Seeds from 1 up to this one are tried.
    seeds: u64,
    /// The scenario that is run; the full swarm if none.
    scenario: Option<String>,
    /// Whether real sled runs too.
    sled: bool,
    /// The command that catches it.
    by: String,
}

/// How a mutant fared.
struct Caught {
    seed: u64,
    /// What was said of it.
    said: String,
    /// Whether that is what was expected of the oracle.
    as_expected: bool,
}

impl Mutant {
    /// Reads the head of a patch: lines of `key: value` before the first `---`.
    fn parse(name: &str, patch: &str) -> Result<Self, String> {
        let head = patch.lines().take_while(|line| !line.starts_with("---"));
        let mut fields: BTreeMap<_, _> = head.filter_map(|line| line.split_once(": ")).collect();
        let mut field = |key: &str| fields.remove(key).map(|value| value.trim().to_owned());
        let need =
            |key: &str, value: Option<String>| value.ok_or_else(|| format!("{name}.patch has no line `{key}: `"));
        Ok(Self {
            name: name.to_owned(),
            what: need("what", field("what"))?,
            oracle: need("oracle", field("oracle"))?,
            seeds: need("seeds", field("seeds"))?.parse().map_err(|_| format!("{name}.patch: `seeds` is no number"))?,
            scenario: field("scenario"),
            sled: field("sled").is_some(),
            by: field("by").unwrap_or_else(|| "run".into()),
        })
    }

    fn seeds(&self) -> RangeInclusive<u64> {
        1..=self.seeds
    }

    fn arguments(&self, seed: u64) -> Vec<String> {
        let mut arguments = vec![self.by.clone(), "--seed".into(), seed.to_string()];
        arguments.extend(self.sled.then(|| "--sled".into()));
        arguments.extend(self.scenario.iter().flat_map(|name| ["--scenario".into(), name.clone()]));
        arguments
    }
}

/// Builds the mutants and tries those named, or all; prints what came of each. Returns whether all
/// were caught by the oracle that should.
///
/// # Errors
/// A patch that does not apply, a mutant that is not there, a build that fails.
pub fn run(names: &[String], jobs: usize) -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("sim/ is in the project");
    let mutants = read(&root.join(PATCHES))?;
    if let Some(unknown) = names.iter().find(|name| mutants.iter().all(|mutant| mutant.name != **name)) {
        let known: Vec<_> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
        return Err(io::Error::other(format!("there is no mutant {unknown}; there are {}", known.join(", "))));
    }
    let program = build(root, &mutants)?;
    let mut missed = 0;
    for mutant in mutants.iter().filter(|mutant| names.is_empty() || names.contains(&mutant.name)) {
        let verdict = match hunt(&program, mutant, jobs)? {
            Some(Caught { seed, said, as_expected: true }) => format!("caught at seed {seed}: {said}"),
            Some(Caught { seed, said, as_expected: false }) => {
                missed += 1;
                format!("NOT caught as {:?}, but at seed {seed}: {said}", mutant.oracle)
            }
            None => {
                missed += 1;
                format!("NOT caught within {} seeds", mutant.seeds)
            }
        };
        println!("{:<28} {}\n{:<28} {verdict}", mutant.name, mutant.what, "");
    }
    println!("{missed} not caught");
    Ok(missed == 0)
}

fn read(folder: &Path) -> io::Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("patch")) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            mutants.push(Mutant::parse(&name, &fs::read_to_string(&path)?).map_err(io::Error::other)?);
        }
    }
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(mutants)
}

/// Builds the simulator with all mutants planted.
fn build(root: &Path, mutants: &[Mutant]) -> io::Result<PathBuf> {
    let place = root.join("target/mutants");
    let (fresh, tree) = (place.join("fresh"), place.join("tree"));
    plant(root, mutants, &fresh)?;
    mirror(&fresh, &tree)?;
    println!("building {} mutants", mutants.len());
    let target = place.join("build");
    let built = Command::new("cargo")
        .current_dir(&tree)
        .args(["build", "--quiet", "--release", "-p", "sim", "--config", "build.rustflags=['--cfg','madsim']"])
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if !built.success() {
        return Err(io::Error::other("the mutants do not build"));
    }
    Ok(target.join("release/sim"))
}

/// Applies all patches to a copy of the tree, in the place of what is in the folder `fresh`.
fn plant(root: &Path, mutants: &[Mutant], fresh: &Path) -> io::Result<()> {
    if fresh.exists() {
        fs::remove_dir_all(fresh)?;
    }
    let files = output(Command::new("git").arg("-C").arg(root).args(["ls-files", "-z", "-co", "--exclude-standard"]))?;
    for file in files.split('\0').filter(|file| !file.is_empty() && root.join(file).is_file()) {
        copy(&root.join(file), &fresh.join(file))?;
    }
    fs::copy(root.join(PATCHES).join("switch.rs"), fresh.join("cluster/src/mutant.rs"))?;
    let lib = fresh.join("cluster/src/lib.rs");
    fs::write(&lib, fs::read_to_string(&lib)? + "\npub mod mutant;\n")?;
    for mutant in mutants {
        let patch = root.join(PATCHES).join(format!("{}.patch", mutant.name));
        // A tree of its own: git must not take it for a part of the project's.
        let apply = Command::new("git")
            .env("GIT_CEILING_DIRECTORIES", fresh.parent().unwrap_or(fresh))
            .current_dir(fresh)
            .arg("apply")
            .arg(&patch)
            .output()?;
        if !apply.status.success() {
            let why = String::from_utf8_lossy(&apply.stderr).into_owned();
            return Err(io::Error::other(format!("{}.patch does not apply any more: {why}", mutant.name)));
        }
    }
    Ok(())
}

fn output(command: &mut Command) -> io::Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{command:?} failed")));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to.parent().expect("files are in folders"))?;
    fs::copy(from, to).map(drop)
}

/// Makes `to` what `from` is; what is the same keeps its time, so that little is built anew.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        let name = path.file_name().expect("it is in a folder");
        match (path.is_dir(), from.join(name).exists()) {
            (true, false) => fs::remove_dir_all(&path)?,
            (false, false) => fs::remove_file(&path)?,
            _ => {}
        }
    }
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let twin = to.join(path.file_name().expect("it is in a folder"));
        if path.is_dir() {
            mirror(&path, &twin)?;
        } else if fs::read(&twin).ok().as_deref() != Some(&fs::read(&path)?[..]) {
            copy(&path, &twin)?;
        }
    }
    Ok(())
}

/// Tries the mutant's seeds until one catches it. The oracle that should counts before others.
fn hunt(program: &Path, mutant: &Mutant, jobs: usize) -> io::Result<Option<Caught>> {
    let found = AtomicU64::new(u64::MAX);
    let left = mutant.seeds().take_while(|seed| *seed <= found.load(Ordering::Relaxed));
    let caught = pool::each(left, jobs, |seed| {
        let caught = attempt(program, mutant, seed)?;
        if caught.as_ref().is_some_and(|one| one.as_expected) {
            found.fetch_min(seed, Ordering::Relaxed);
        }
        Ok(caught)
    })?;
    Ok(caught.into_iter().flatten().min_by_key(|one| (!one.as_expected, one.seed)))
}

/// One seed with the mutant on; what was said if the run failed.
fn attempt(program: &Path, mutant: &Mutant, seed: u64) -> io::Result<Option<Caught>> {
    let Done { code, said: text } =
        child::run_command(Command::new(program).args(mutant.arguments(seed)).env(SWITCH, &mutant.name))?;
    if code == 0 {
        return Ok(None);
    }
    let broken: Vec<_> =
        text.lines().map(str::trim).filter(|line| VIOLATIONS.iter().any(|kind| line.starts_with(kind))).collect();
    let expected = broken.iter().find(|line| line.contains(&mutant.oracle));
    let said = expected.or(broken.first()).copied().or(text.lines().last()).unwrap_or_default();
    if code == 2 {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("{}: {said}", mutant.name)));
    }
    Ok(Some(Caught { seed, said: said.trim().to_owned(), as_expected: expected.is_some() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_patches_apply() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("sim/ is in the project");
        let mutants = read(&root.join(PATCHES)).expect("all heads can be read");
        let fresh = child::scratch("planted");
        plant(root, &mutants, &fresh).expect("they follow the code");
        fs::remove_dir_all(fresh).expect("it was just made");
    }
}
