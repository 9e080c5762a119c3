//! Reads of files that an operator names: they neither wait nor take more memory than they may.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Reads the whole file at `path`. Never waits, as the opening of a pipe that nobody writes to does.
///
/// # Errors
/// A file that cannot be opened or read, [`ErrorKind::FileTooLarge`] if it has more than `bytes_max` bytes, and
/// [`ErrorKind::InvalidInput`] if it is a pipe, a device, or anything else than a regular file.
pub(crate) fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    if file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)? > bytes_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_a_regular_file_within_the_bound_is_read_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (file, pipe) = (folder.path().join("file"), folder.path().join("pipe"));
        fs::write(&file, "four").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"four");
        for (path, bytes_max, kind) in [
            (&*file, 3, ErrorKind::FileTooLarge),
            (&pipe, 4, ErrorKind::InvalidInput),
            (folder.path(), 4, ErrorKind::InvalidInput),
            (Path::new("/dev/zero"), 4, ErrorKind::InvalidInput),
            (&folder.path().join("absent"), 4, ErrorKind::NotFound),
        ] {
            assert_eq!(read(path, bytes_max).unwrap_err().kind(), kind, "{}", path.display());
        }
    }
}
