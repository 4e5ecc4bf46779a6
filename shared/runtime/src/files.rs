//! Files that are whole whenever the machine stops. Everything here blocks.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// The file has its old content or the new one, never a part, whenever the machine stops; only its owner can read it.
///
/// # Errors
/// When it cannot be written beside its place, or not be moved there: then the old content stands.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension(format!("{:08x}.tmp", rand::random::<u32>()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
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
