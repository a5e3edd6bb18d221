//! Every target on its corpus and on mutations of it.
//!
//! `VDA_FUZZ_SECONDS` is the time of each target (2); `VDA_FUZZ_SEED` repeats a run. An input that fails is written to a file; put it
//! into `corpus/` once it is fixed, so that it stays so. `VDA_FUZZ_NEW=1` writes the seeds of the targets into the corpus.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vda_fuzz::mutate::{Random, mutate};
use vda_fuzz::{Target, target};

/// A run that takes longer is a failure: the input makes the code compute or wait out of proportion.
const TOO_LONG: Duration = Duration::from_secs(10);

fn folder(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

fn name_of(input: &[u8]) -> String {
    format!("{:08x}-{}", crc32c::crc32c(input), input.len())
}

fn corpus(target: Target) -> Vec<Vec<u8>> {
    let folder = folder(target);
    if std::env::var_os("VDA_FUZZ_NEW").is_some() {
        std::fs::create_dir_all(&folder).expect("a folder");
        for seed in (target.seeds)() {
            std::fs::write(folder.join(name_of(&seed)), seed).expect("written");
        }
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {} is empty", target.name);
    files.iter().map(|file| std::fs::read(file).expect("read")).collect()
}

fn run(target: Target, input: &[u8], origin: &str) {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let slow = begun.elapsed() > TOO_LONG;
    if outcome.is_ok() && !slow {
        return;
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}", target.name, name_of(input)));
    std::fs::write(&file, input).expect("written");
    eprintln!("{origin}: this input fails: {}", file.display());
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    panic!("took {:?}", begun.elapsed());
}

fn fuzz(name: &str) {
    let target = target(name);
    let corpus = corpus(target);
    corpus.iter().for_each(|input| run(target, input, "corpus"));
    let seed = number("VDA_FUZZ_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.as_secs())
    });
    let until = Instant::now() + Duration::from_secs(number("VDA_FUZZ_SECONDS").unwrap_or(2));
    let (mut random, mut runs) = (Random::new(seed), 0_u64);
    while Instant::now() < until {
        run(target, &mutate(&mut random, &corpus), &format!("VDA_FUZZ_SEED={seed}, run {runs}"));
        runs += 1;
    }
    eprintln!("{name}: {} inputs of the corpus, {runs} mutations, VDA_FUZZ_SEED={seed}", corpus.len());
    assert!(runs > 0, "not a single mutation in the time");
}

#[test]
fn pdu_stream() {
    fuzz("pdu_stream");
}

#[test]
fn controller() {
    fuzz("controller");
}

#[test]
fn host() {
    fuzz("host");
}

#[test]
fn nvmf_target() {
    fuzz("nvmf_target");
}

#[test]
fn json_rpc() {
    fuzz("json_rpc");
}

#[test]
fn lvstore() {
    fuzz("lvstore");
}
