//! Creation, locks, full disks, and journals of other runs.

use std::fs;

use super::*;

#[test]
fn an_existing_journal_is_not_overwritten() {
    let (_folder, path) = written(2);
    let refused = Journal::create(&path, &header()).unwrap_err();
    assert!(refused.to_string().contains("already there"), "{refused}");
    assert_eq!(read(&path).unwrap().1, records(2));
}

#[test]
fn a_crash_while_creating_leaves_no_journal_and_does_not_stop_the_next_try() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fs::write(folder.path().join("journal.partial"), [7; 400]).unwrap();
    Journal::create(&path, &header()).unwrap();
    assert_eq!(read(&path).unwrap(), (header(), Vec::new(), None));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_journal_of_another_run_is_refused_with_every_difference() {
    let (_folder, path) = written(1);
    let with = |method| JournalHeader { method, ..header() };
    let others = [
        (with(zo(3)), "probes (journal 2, now 3)"),
        (
            with(JournalMethod::Zo {
                probes: 2,
                distribution: Distribution::Rademacher,
                mode: ScaleMode::Relative,
            }),
            "perturbation (journal gaussian, now rademacher)",
        ),
        (
            with(JournalMethod::Zo {
                probes: 2,
                distribution: Distribution::Gaussian,
                mode: ScaleMode::Absolute,
            }),
            "scale_mode (journal relative, now absolute)",
        ),
        (with(JournalMethod::Exact), "method (journal zo, now exact)"),
        (
            JournalHeader { base_model: [9; 32], ..header() },
            "base model (journal 010101010101, now 090909090909)",
        ),
        (JournalHeader { config: [9; 32], ..header() }, "config ("),
        (JournalHeader { tokenizer: [9; 32], ..header() }, "tokenizer ("),
        (JournalHeader { data: [9; 32], ..header() }, "data ("),
    ];
    for (other, named) in others {
        let refused = Journal::open(&path, &other).unwrap_err().to_string();
        assert!(refused.contains(named) && refused.matches("(journal").count() == 1, "{refused}");
    }
    let both = Journal::open(&path, &JournalHeader { config: [9; 32], data: [9; 32], ..header() });
    let both = both.unwrap_err().to_string();
    assert!(both.contains("config (") && both.contains("data ("), "{both}");
}

#[test]
fn hashes_that_share_their_first_bytes_still_differ() {
    let (_folder, path) = written(1);
    let mut base_model = [1; 32];
    base_model[31] = 2;
    let refused = Journal::open(&path, &JournalHeader { base_model, ..header() }).unwrap_err();
    assert!(refused.to_string().contains("base model ("), "{refused}");
}

#[test]
fn a_second_writer_is_refused_and_a_reader_is_not() {
    let (_folder, path) = written(1);
    let (mut journal, ..) = Journal::open(&path, &header()).unwrap();
    let refused = Journal::open(&path, &header()).unwrap_err();
    assert!(refused.to_string().contains("another qzo process"), "{refused}");
    journal.append(&record(1)).unwrap();
    assert_eq!(read(&path).unwrap().1, records(2));
    drop(journal);
    assert!(Journal::open(&path, &header()).is_ok());

    let fresh = path.with_file_name("fresh");
    let journal = Journal::create(&fresh, &header()).unwrap();
    assert!(Journal::open(&fresh, &header()).is_err(), "the lock is held from creation on");
    drop(journal);
}

/// Runs the next test in this test binary under a shell that limits file sizes to 512 or 1024 bytes, depending on the
/// shell.
#[cfg(unix)]
#[test]
fn an_append_that_fails_half_way_leaves_the_journal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    Journal::create(&path, &header()).unwrap();
    let name = "a_writer_under_a_file_size_limit";
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(LIMITED_JOURNAL, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");

    let (mut journal, found, torn) = Journal::open(&path, &header()).unwrap();
    assert!(found.len() >= 4, "{} records", found.len());
    assert_eq!((&found, torn), (&records(found.len() as u64), None));
    journal.append(&record(found.len() as u64)).unwrap();
}

#[cfg(unix)]
const LIMITED_JOURNAL: &str = "QZO_TEST_LIMITED_JOURNAL";

#[cfg(unix)]
#[test]
#[ignore = "the writing half of an_append_that_fails_half_way_leaves_the_journal_as_it_was"]
fn a_writer_under_a_file_size_limit() {
    let Some(path) = std::env::var_os(LIMITED_JOURNAL).map(PathBuf::from) else { return };
    let (mut journal, ..) = Journal::open(&path, &header()).unwrap();
    let fits = (0..100).take_while(|&step| journal.append(&record(step)).is_ok()).count();
    assert!((1..100).contains(&fits), "the limit was not met: {fits}");
    for _ in 0..2 {
        let refused = journal.append(&record(fits as u64)).unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "still usable: {refused}");
        assert_eq!(fs::metadata(&path).unwrap().len() as usize, offset_of(fits));
    }
}
