"""What a stream of a media file is: its tracks, its channels and its description."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from singleout.audio.info import AudioInfo, Note
from singleout.errors import AudioError, shortened

MAX_RATE = 10_000_000
"""Hz. No recording has more, but damaged files state more."""
MAX_NAME = 30
MAX_TRACKS_NAMED = 8
AV_TAGS = {
    "title": "title", "artist": "artist", "album": "album", "date": "date", "comment": "comment",
    "copyright": "copyright", "genre": "genre", "track": "tracknumber",
}  # fmt: skip
"""Names of tags in FFmpeg, and in libsndfile."""
LOSSLESS = ("flac", "alac", "wavpack", "tta", "ape", "truehd", "mlp", "shorten", "tak")
"""FFmpeg's names of lossless codecs other than PCM."""
ENCRYPTED_TAGS = ("enca", "drms", "aavd")
"""Kinds of encrypted sound in MP4 files."""
WAV_CHANNELS = (
    "FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR",
    "TBL", "TBC", "TBR",
)  # fmt: skip
"""FFmpeg's names of the loudspeakers of a WAV, in the order of their bits."""
CUSTOM_ORDER = " channels ("
"""In FFmpeg's name of a layout with an order of its own, such as "2 channels (FR+FL)"."""
KEPT: list[Any] = []
"""See ``kept``."""
UNREADABLE = "not media"
SOUNDLESS = "has no sound, only pictures"


def sound_stream(container: Any, track: int | None) -> Any:
    """The stream of a sound track.

    Args:
        container: an open container of PyAV.
        track: its number, from 1; None takes the main one.

    Raises:
        AudioError: there is no such track, or it is encrypted or cannot be decoded.

    Example:
        >>> import av, tempfile, numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(f"{folder}/x.wav", np.zeros((2, 1_000), np.float32), 16_000)
        ...     with av.open(f"{folder}/x.wav") as container:
        ...         sound_stream(container, None).index
        0
    """
    tracks = container.streams.audio
    if not tracks:
        kinds = {stream.type for stream in container.streams}
        is_text = container.format.name == "tty"
        raise AudioError(SOUNDLESS if "video" in kinds and not is_text else UNREADABLE)
    if track is not None and not 1 <= track <= len(tracks):
        plural = "s" if len(tracks) > 1 else ""
        raise AudioError(f"has {len(tracks)} sound track{plural}, and no track {track}")
    stream = tracks[track - 1] if track else container.streams.best("audio") or tracks[0]
    if stream.codec_context is None:
        raise AudioError("FFmpeg has no decoder for the encoding of its sound")
    with suppress(UnicodeDecodeError):  # many containers have numbers in place of text
        if stream.codec_context.codec_tag in ENCRYPTED_TAGS:
            raise AudioError("its sound is encrypted")
    return stream


def picture_stream(container: Any, stream: Any) -> Any:
    """The video that belongs to a stream of sound; None if there is none but a cover picture.

    Example:
        >>> import av, tempfile, numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(f"{folder}/x.wav", np.zeros((2, 1_000), np.float32), 16_000)
        ...     with av.open(f"{folder}/x.wav") as container:
        ...         picture_stream(container, container.streams[0])
    """
    from av.stream import Disposition

    pictures = container.streams.best("video", related=stream)
    is_cover = pictures is not None and pictures.disposition & Disposition.attached_pic
    return None if is_cover else pictures


def kept(layout: Any) -> Any:
    """The same layout, which is kept until the process ends if its channels have their own order.

    PyAV 18 frees the memory of such a layout together with its frame or stream, and then again.

    Example:
        >>> import av
        >>> kept(av.AudioLayout("stereo")).name
        'stereo'
    """
    if CUSTOM_ORDER in layout.name:
        KEPT.append(layout)
    return layout


def tracks_note(container: Any, stream: Any) -> Note | None:
    """Say which tracks there are, if there are several.

    Args:
        container: an open container of PyAV.
        stream: the one that is read.

    Example:
        >>> import av, tempfile, numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(f"{folder}/x.wav", np.zeros((2, 1_000), np.float32), 16_000)
        ...     with av.open(f"{folder}/x.wav") as container:
        ...         tracks_note(container, container.streams[0])
    """
    tracks = list(container.streams.audio)
    if len(tracks) < 2:
        return None
    names = []
    for number, each in enumerate(tracks[:MAX_TRACKS_NAMED], start=1):
        layout = kept(each.codec_context.layout).name if each.codec_context is not None else ""
        words = [each.metadata.get("language", ""), each.metadata.get("title", ""), layout]
        known = [shortened(word, MAX_NAME) for word in words if word not in ("", "und")]
        names.append(f"{number}: {', '.join(known)}" if known else str(number))
    more = "; ..." if len(tracks) > MAX_TRACKS_NAMED else ""
    return Note(
        f"has {len(tracks)} sound tracks ({'; '.join(names)}{more}): "
        f"track {tracks.index(stream) + 1} is read; --track N reads another"
    )


def describe(container: Any, stream: Any, frame: Any, num_frames: int | None) -> AudioInfo:
    """Describe a stream as libsndfile would.

    Args:
        container: an open container of PyAV.
        stream: one of its streams of sound.
        frame: its first frame.
        num_frames: samples per channel that the container states; None if it states none.

    Raises:
        AudioError: the sample rate is impossible.

    Example:
        >>> import av, tempfile, numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(f"{folder}/x.wav", np.zeros((2, 1_000), np.float32), 16_000)
        ...     with av.open(f"{folder}/x.wav") as container:
        ...         frame = next(container.decode(audio=0))
        ...         describe(container, container.streams[0], frame, 1_000).subtype
        'FLOAT'
    """
    if not 1 <= frame.sample_rate <= MAX_RATE:
        raise AudioError(f"its header states an impossible sample rate: {frame.sample_rate} Hz")
    name = stream.codec_context.name
    is_lossless = name in LOSSLESS or name.startswith("pcm_")
    bits = 16 if frame.format.name.startswith(("u8", "s16")) else 24
    is_integer = is_lossless and not name.startswith(("pcm_f", "pcm_mulaw", "pcm_alaw"))
    channels = [channel.name for channel in frame.layout.channels]
    mask = 0
    if set(channels) <= set(WAV_CHANNELS) and len(set(channels)) == len(channels):
        mask = sum(1 << WAV_CHANNELS.index(channel) for channel in channels)
    tags = {**container.metadata, **stream.metadata}
    return AudioInfo(
        sample_rate=frame.sample_rate,
        channels=len(channels),
        num_frames=num_frames,
        container=container.format.name,
        subtype=f"PCM_{bits}" if is_integer else "FLOAT",
        tags={AV_TAGS[k.lower()]: v for k, v in tags.items() if k.lower() in AV_TAGS},
        channel_mask=mask,
        is_ambisonic=any(channel.startswith("AMBI") for channel in channels),
    )


def wav_order(layout: Any) -> list[int] | None:
    """The order of channels in a WAV, by their places in a layout; None if they are in order.

    Channels without a loudspeaker of a WAV (ambisonic ones, for example) stay where they are.

    Example:
        >>> import av
        >>> wav_order(av.AudioLayout("5.1")), wav_order(av.AudioLayout("FR+FL"))
        (None, [1, 0])
    """
    channels = [channel.name for channel in layout.channels]
    if not set(channels) <= set(WAV_CHANNELS):
        return None
    order = sorted(range(len(channels)), key=lambda place: WAV_CHANNELS.index(channels[place]))
    return order if order != sorted(order) else None
