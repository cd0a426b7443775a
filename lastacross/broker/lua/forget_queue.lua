-- forget_queue: move a queue's unreadable settings aside so that a process uploads them again.
--
-- ARGV: the queue and the problem, worded to follow 'has'.
-- Returns 1 if the queue had settings.
-- include: keys

if call('EXISTS', SETTINGS .. ARGV[1]) == 0 then
  return 0
end
move_aside(SETTINGS .. ARGV[1], 'has ' .. ARGV[2])
return 1
