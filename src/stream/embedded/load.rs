//! From a directory to a [`State`]: lists the segments, scans them, passes damage, cuts what a
//! crash left unfinished.

use super::file::Files;
use super::frame::{FILE_HEADER, FileHeader, Step, Walker};
use super::index::{Location, pair_of};
use super::log::{State, unavailable};
use super::segment::{self, Segment};
use crate::change::Position;
use crate::codec::{self, Decoder, WriterSchema};
use crate::env::disk::{Disk, File, Open};
use crate::stream::StreamError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What loading a directory gave.
#[derive(Default)]
pub(super) struct Loaded {
    pub state: State,
    /// One sentence for each damaged place.
    pub damage: Vec<String>,
    /// Whether records may be appended to the last segment. If not, the writer begins a new one.
    pub appendable: bool,
    /// Whether the last segment is undamaged up to its end, so that the next one must follow
    /// without missing positions.
    pub intact: bool,
}

/// How often a directory is listed anew because a file vanished between listing and opening. Each
/// time another process has finished a step of compaction, which takes longer than a listing;
/// beyond this something else is wrong.
const LISTINGS_MAX: usize = 100;

/// The segments' files by their first position, and the schemas' files.
pub(super) struct Listing {
    pub segments: Vec<(Position, PathBuf)>,
    pub schemas: Vec<PathBuf>,
    pub temporary: Vec<PathBuf>,
}

/// What is in the directory now.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing { segments: Vec::new(), schemas: Vec::new(), temporary: Vec::new() };
    for path in disk.list(dir)? {
        let ends_with = |end: &str| path.extension().is_some_and(|extension| extension == end);
        if let Some(first) = segment::first_of(&path) {
            listing.segments.push((first, path));
        } else if ends_with(segment::SCHEMA) {
            listing.schemas.push(path);
        } else if ends_with(segment::TEMPORARY) {
            listing.temporary.push(path);
        }
    }
    listing.segments.sort();
    Ok(listing)
}

/// How to treat the directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It is ours: finish what a crash left unfinished.
    Write,
    /// Another process may write it: change nothing, and what is unfinished is not there yet.
    Read,
}

/// A segment's file with its header. It is closed again: there may be more of them than a process
/// may have open.
pub(super) struct Found {
    pub first: Position,
    path: PathBuf,
    len: u64,
    header: FileHeader,
    /// Whether the header is undamaged; otherwise the first position is that of the file's name.
    sound: bool,
}

impl Found {
    fn open(disk: &dyn Disk, first: Position, path: &Path, access: Access) -> io::Result<(Found, File)> {
        let how = if access == Access::Write { Open::Write } else { Open::Read };
        let file = disk.open(path, how)?;
        let len = file.facts()?.len;
        let header = FileHeader::read(&file).filter(|header| header.first == first);
        // A file without a header is taken for a compacted one, so that nobody believes that it has
        // its full history.
        let assumed = FileHeader { first, through: 0, compacted: true };
        let (header, sound) = (header.unwrap_or(assumed), header.is_some());
        Ok((Found { first, path: path.to_owned(), len, header, sound }, file))
    }

    /// The file once more; `None` if it is gone, or another one has its name.
    fn reopen(&self, disk: &dyn Disk, access: Access) -> io::Result<Option<File>> {
        match Found::open(disk, self.first, &self.path, access) {
            Ok((now, file)) => {
                let is_same = (now.header, now.sound) == (self.header, self.sound) && now.len >= self.len;
                Ok(is_same.then_some(file))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is nothing in it that could ever have been acknowledged: its creation did not
    /// come to an end, or nothing followed it. What a sound header of a compacted file says is
    /// something.
    fn is_bare(&self) -> bool {
        self.len < FILE_HEADER || self.len == FILE_HEADER && !(self.sound && self.header.compacted)
    }

    /// Whether, as the last file, it holds nothing but an append that was cut short.
    fn is_unfinished(&self, file: &File) -> bool {
        let mut walker = Walker::new(file, FILE_HEADER, self.len, self.first.saturating_sub(1), None);
        let holds = match walker.next() {
            Some(Step::Frame { .. }) => true,
            Some(Step::Damage(damage)) => damage.before.is_some(),
            None => false,
        };
        self.sound && !self.header.compacted && !holds && !walker.unreadable
    }

    /// Last position that it covers in the place of files that it replaces; 0: none.
    fn through(&self) -> Position {
        if self.header.compacted { self.header.through } else { 0 }
    }
}

/// The files of a directory, sorted out.
pub(super) struct Survey {
    /// Those that count. Only they bound the file before them.
    pub files: Vec<Found>,
    /// Those that a merged one before them replaces, and those in which nothing is.
    void: Vec<PathBuf>,
    /// Newest ones that hold an unfinished append only, and its bytes.
    unfinished: Vec<(PathBuf, u64)>,
}

/// Looks through the files of a listing; the one before the first of them covers the positions up
/// to `through`. `None` if a file vanished.
pub(super) fn survey(
    files: &Files,
    listed: &[(Position, PathBuf)],
    mut through: Position,
    access: Access,
) -> Result<Option<Survey>, StreamError> {
    let disk = files.disk.as_ref();
    let mut survey = Survey { files: Vec::new(), void: Vec::new(), unfinished: Vec::new() };
    for (first, path) in listed {
        let found = match Found::open(disk, *first, path, access) {
            Ok((found, _)) => found,
            // Compaction by another process removes files; what they held is then in the file
            // before.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unavailable(path, &error)),
        };
        if through >= *first || found.is_bare() {
            survey.void.push(found.path);
        } else {
            through = found.through();
            survey.files.push(found);
        }
    }
    while let Some(last) = survey.files.last() {
        let Some(file) = last.reopen(disk, access).map_err(|error| unavailable(&last.path, &error))? else {
            return Ok(None);
        };
        if !last.is_unfinished(&file) {
            break;
        }
        survey.unfinished.push((last.path.clone(), last.len - FILE_HEADER));
        survey.files.pop();
    }
    Ok(Some(survey))
}

/// Pairs each file with the first position of the one behind it.
pub(super) fn with_limits(files: Vec<Found>) -> impl Iterator<Item = (Found, Option<Position>)> {
    let limits: Vec<Option<Position>> = files.iter().skip(1).map(|next| Some(next.first)).chain([None]).collect();
    files.into_iter().zip(limits)
}

/// Loads a directory that exists.
pub(super) fn load(files: &Files, dir: &Path, access: Access) -> Result<Loaded, StreamError> {
    for _ in 0..LISTINGS_MAX {
        if let Some(loaded) = load_once(files, dir, access)? {
            return Ok(loaded);
        }
    }
    Err(StreamError::Unavailable(format!("{}: files vanish as fast as they are listed", dir.display())))
}

/// `None` if a file vanished that the listing had.
fn load_once(files: &Files, dir: &Path, access: Access) -> Result<Option<Loaded>, StreamError> {
    let disk = files.disk.as_ref();
    let listing = list(disk, dir).map_err(|e| unavailable(dir, &e))?;
    let mut loaded = Loaded::default();
    loaded.state.schemas = listing.schemas.len();
    let mut decoder = Decoder::default();
    let own = codec::own_fingerprint().map(|own| codec::hex(&own)).unwrap_or_default();
    // Ours is compiled in.
    for path in listing.schemas.iter().filter(|path| path.file_stem().is_none_or(|stem| stem != own.as_str())) {
        let json = disk.read_to_string(path).map_err(|e| e.to_string());
        match json.and_then(|json| WriterSchema::parse(&json).map_err(|e| e.to_string())) {
            Ok(schema) => decoder.learn(schema),
            Err(error) => loaded.damage.push(format!("{}: {error}", path.display())),
        }
    }
    loaded.state.decoder = Arc::new(decoder);
    if access == Access::Write {
        // A killed process may have named files and not made the names durable: before a file is
        // removed that another one replaces, and before records go into the newest one.
        disk.sync_dir(dir).map_err(|e| unavailable(dir, &e))?;
        for path in &listing.temporary {
            disk.remove(path).map_err(|e| unavailable(path, &e))?;
        }
    }
    let Some(survey) = survey(files, &listing.segments, 0, access)? else { return Ok(None) };
    if access == Access::Write {
        loaded.remove_void(dir, &survey, disk)?;
    }
    for (found, limit) in with_limits(survey.files) {
        if !loaded.add(files, found, limit, access)? {
            return Ok(None);
        }
    }
    if let (Access::Write, Some(last)) = (access, loaded.state.segments.last()) {
        // What a killed process wrote but did not sync is read like all else from here on, so it
        // has to stay.
        last.file.get().and_then(|file| file.sync()).map_err(|e| unavailable(&last.path, &e))?;
    }
    // A file's name proves that the positions before it were given out, even if the file before it
    // is gone.
    let named = listing.segments.last().map_or(1, |(first, _)| *first);
    loaded.appendable &= loaded.state.next >= named;
    loaded.state.next = loaded.state.next.max(named);
    Ok(Some(loaded))
}

impl Loaded {
    /// Removes files that do not count, so that none of them comes back when their positions have
    /// been given out elsewhere.
    fn remove_void(&mut self, dir: &Path, survey: &Survey, disk: &dyn Disk) -> Result<(), StreamError> {
        let unfinished = survey.unfinished.iter().map(|(path, _)| path);
        let mut any = false;
        for path in survey.void.iter().chain(unfinished) {
            disk.remove(path).map_err(|e| unavailable(path, &e))?;
            any = true;
        }
        for (path, bytes) in &survey.unfinished {
            self.damage.push(format!("{}: an unfinished append of {bytes} bytes was cut off", path.display()));
        }
        if any { disk.sync_dir(dir).map_err(|e| unavailable(dir, &e)) } else { Ok(()) }
    }

    /// Adds the next file. `limit` is the first position of the one behind it. False if it has
    /// vanished.
    pub fn add(
        &mut self,
        files: &Files,
        found: Found,
        limit: Option<Position>,
        access: Access,
    ) -> Result<bool, StreamError> {
        let (first, path) = (found.first, found.path.as_path());
        let Some(file) = found.reopen(files.disk.as_ref(), access).map_err(|error| unavailable(path, &error))? else {
            return Ok(false);
        };
        if !found.sound {
            self.damage.push(format!("{}: the header is damaged", path.display()));
        }
        if self.intact && self.state.next < first {
            let (from, to) = (self.state.next, first - 1);
            self.damage.push(format!("{}: positions {from} to {to} are missing before it", path.display()));
        }
        let (ordinal, file) = (self.state.new_ordinal(), Arc::new(file));
        let mut segment =
            Segment::new(files, ordinal, path.to_owned(), &file, found.header).map_err(|e| unavailable(path, &e))?;
        // Records that the file before has as well (which only damage brings about) are passed
        // over.
        segment.last = self.state.next.saturating_sub(1);
        self.state.open(&segment);
        let decoder = Arc::clone(&self.state.decoder);
        let scanned = segment
            .scan(limit, |offset, meta, payload| {
                self.state.set_newest(pair_of(&decoder, meta, payload), Location::new(ordinal, offset));
            })
            .map_err(|e| unavailable(path, &e))?;
        self.damage.extend(scanned.damage.iter().map(|damage| segment.describe(damage)));
        self.state.next = self.state.next.max(segment.next());
        self.appendable = found.sound && !segment.compacted;
        self.intact = found.sound;
        if let Some(tail) = scanned.tail.filter(|_| !segment.reaches(limit)) {
            let closed = limit.is_some() || segment.compacted;
            match access {
                // An append that was cut short was not acknowledged; a lost record at the end looks
                // the same. It is cut off, so that the next append follows a sound frame.
                Access::Write if !closed && !scanned.unreadable => {
                    file.set_len(segment.len).map_err(|e| unavailable(path, &e))?;
                    let (bytes, path) = (tail.bytes, path.display());
                    self.damage.push(format!("{path}: an unfinished append of {bytes} bytes was cut off"));
                }
                Access::Read if !closed => {}
                _ => {
                    self.damage.push(segment.describe(&tail));
                    segment.len = tail.offset + tail.bytes;
                    self.appendable = false;
                    self.intact = false;
                    if limit.is_none() {
                        // The positions in what cannot be read are not used again.
                        self.state.next += tail.bytes / super::frame::FRAME_HEADER as u64 + 1;
                    }
                }
            }
        }
        if limit.is_some() || segment.compacted {
            segment.close();
        }
        self.state.segments.push(segment);
        Ok(true)
    }
}
