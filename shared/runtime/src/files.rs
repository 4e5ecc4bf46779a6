//! Files that are whole whenever the machine stops. Everything here blocks.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// The file has its old content or the new one, never a part, whenever the machine stops; only its owner can read it.
///
/// # Errors
/// When it cannot be written beside its place, or not be moved there: then the old content stands.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    place(path, content, |temporary| fs::rename(temporary, path))
}

/// As [`write_atomically`], of a file that is there: false when it is not, or is taken away meanwhile.
///
/// # Errors
/// As [`write_atomically`].
pub fn replace_atomically(path: &Path, content: &[u8]) -> io::Result<bool> {
    let exchanged = place(path, content, |temporary| {
        match renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE) {
            // Not every file system can.
            Err(Errno::INVAL | Errno::NOSYS) if path.exists() => fs::rename(temporary, path),
            // What was in its place is beside it now.
            Ok(()) => fs::remove_file(temporary),
            Err(error) => Err(error.into()),
        }
    });
    match exchanged {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// `put` gives the written file its place.
fn place(path: &Path, content: &[u8], put: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension(format!("{:08x}.tmp", rand::random::<u32>()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        put(&temporary)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _removed = fs::remove_file(&temporary);
    }
    written?;
    match path.parent() {
        // A plain name lies in the working folder.
        Some(folder) if folder.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// A folder's entries outlive the machine's stop only when the folder itself is written.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match fs::File::open(folder)?.sync_all() {
        // There are file systems whose folders cannot be written on demand.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        for content in [b"old".as_slice(), b"new"] {
            write_atomically(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // What cannot be replaced by a file stays, and nothing is left beside it.
        let occupied = folder.path().join("folder");
        fs::create_dir_all(occupied.join("below")).unwrap();
        assert!(write_atomically(&occupied, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(write_atomically(&folder.path().join("nowhere/x"), b"x").is_err());
    }

    #[test]
    fn a_file_that_is_gone_is_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        assert!(!replace_atomically(&path, b"x").unwrap());
        fs::write(&path, b"old").unwrap();
        assert!(replace_atomically(&path, b"new").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something is left beside it");
    }
}
