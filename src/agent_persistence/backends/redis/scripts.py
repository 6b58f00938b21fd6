"""The scripts. Each runs as a whole or not at all, on the keys of one owner, by the server's clock.

The braces are part of the keys: what stands between them decides on the slot.

- ``<namespace>:checkpoints:{<owner>}:thread:<thread>``, a hash: ``latest`` and ``oldest`` version, ``created``,
  ``expires``, ``saves``, and a field for each version: when it was saved and when it expires, a line break, JSON.
  Versions are consecutive: to walk through them takes no list. ``saves`` has the tokens of the last 32 saves with their
  versions, so that one whose reply was lost is recognized although others have saved since.
- ``<namespace>:checkpoints:{<owner>}:threads``, a sorted set: each thread by its last save, no two at the same time.
- ``<namespace>:checkpoints:{<owner>}:expiries``, a sorted set: those of them that expire, by when they do.

Redis removes the hash of a thread that has expired; whoever next saves, deletes or lists drops the thread from both
sets. When all threads expire, the sets expire with the last one, so nothing is left of an owner who never comes back.

Times are microseconds since 1970, which a number of Lua holds exactly until the year 2255.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final

_CLOCK: Final = """
local function digits(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function lives(expires) return not expires or expires == '' or now < tonumber(expires) end
"""

# KEYS: the thread, the threads, the expiries.
_TIDY: Final = """
local function tidy(threads, expiries)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', digits(now), 'LIMIT', 0, 100)) do
    redis.call('ZREM', expiries, gone)
    redis.call('ZREM', threads, gone)
  end
  local last = redis.call('ZRANGE', expiries, -1, -1, 'WITHSCORES')[2]
  for _, key in ipairs({threads, expiries}) do
    if redis.call('ZCARD', threads) > redis.call('ZCARD', expiries) then
      redis.call('PERSIST', key)
    elseif last then
      redis.call('PEXPIREAT', key, digits(math.ceil(last / 1000) + 1))
    end
  end
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the name by which the server knows it once it has run."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


SAVE: Final = Script(
    _CLOCK
    + _TIDY
    + """
local thread, threads, expiries = KEYS[1], KEYS[2], KEYS[3]
local id, json, token, expected, lifetime, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local held = redis.call('HMGET', thread, 'latest', 'oldest', 'created', 'expires', 'saves')
if not lives(held[4]) then
  redis.call('DEL', thread)
  held = {}
end
local latest, saves = held[1] or '0', held[5] or ''
local done = string.match(saves, token .. ' (%d+)')
if done then
  local state = redis.call('HGET', thread, done)
  local times = state and string.match(state, '^[^\\n]*') or digits(now) .. ' ' -- it may be too old to be kept
  return {1, done, times}
end
if expected ~= '' and expected ~= latest then return {0, latest} end

local top = redis.call('ZRANGE', threads, -1, -1, 'WITHSCORES')[2]
local updated = now
if top and tonumber(top) >= now then updated = top + 1 end
local version = updated
if held[1] then version = held[1] + 1 end
local expires = ''
if lifetime ~= '' then expires = digits(now + lifetime) end
local times = digits(now) .. ' ' .. expires
local oldest = tonumber(held[2] or version)
local first = oldest
if keep > 0 then first = math.min(math.max(oldest, version - keep + 1), oldest + 1000) end -- nobody waits for long

redis.call('HSET', thread, 'latest', digits(version), 'oldest', digits(first), 'created', held[3] or digits(updated),
  'expires', expires, 'saves', string.sub(token .. ' ' .. digits(version) .. ';' .. saves, 1, 1600),
  digits(version), times .. '\\n' .. json)
for gone = oldest, first - 1 do redis.call('HDEL', thread, digits(gone)) end
redis.call('ZADD', threads, digits(updated), id)
if expires == '' then
  redis.call('PERSIST', thread)
  redis.call('ZREM', expiries, id)
else
  redis.call('PEXPIREAT', thread, digits(math.ceil(expires / 1000)))
  redis.call('ZADD', expiries, expires, id)
end
tidy(threads, expiries)
return {1, digits(version), times}
"""
)

LOAD: Final = Script(
    _CLOCK
    + """
local held = redis.call('HMGET', KEYS[1], 'latest', 'expires')
if not held[1] or not lives(held[2]) then return {} end
local version = ARGV[1]
if version == '' then version = held[1] end
local state = redis.call('HGET', KEYS[1], version)
if not state or not lives(string.match(state, '^%d+ (%d*)')) then return {} end
return {version, state}
"""
)

HISTORY: Final = Script(
    _CLOCK
    + """
local held = redis.call('HMGET', KEYS[1], 'latest', 'oldest', 'expires')
local found = {}
if not held[1] or not lives(held[3]) then return found end
local version, oldest, count = tonumber(held[1]), tonumber(held[2]), ARGV[2] * 2
if ARGV[1] ~= '' then version = math.min(version, ARGV[1] - 1) end
while version >= oldest and #found < count do
  local state = redis.call('HGET', KEYS[1], digits(version))
  if state and lives(string.match(state, '^%d+ (%d*)')) then
    found[#found + 1] = digits(version)
    found[#found + 1] = state
  end
  version = version - 1
end
return found
"""
)

DELETE: Final = Script(
    _CLOCK
    + _TIDY
    + """
local held = redis.call('HMGET', KEYS[1], 'latest', 'expires')
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
tidy(KEYS[2], KEYS[3])
return held[1] and lives(held[2]) and 1 or 0
"""
)

# Ids with the times of their last saves, the latest first. KEYS: the threads, the expiries.
LIST: Final = Script(
    _CLOCK
    + _TIDY
    + """
tidy(KEYS[1], KEYS[2])
return redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
"""
)

# When threads began; '' for one that is not there: evicted, or expired since they were listed.
# KEYS: the threads, the expiries, each thread.
LOOK: Final = Script(
    _CLOCK
    + """
local found = {}
for place, id in ipairs(ARGV) do
  local held = redis.call('HMGET', KEYS[place + 2], 'created', 'expires')
  found[place] = lives(held[2]) and held[1] or ''
  if not held[1] then
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return found
"""
)
