-- forget_queue: move the settings of a queue aside that cannot be read: they are to be uploaded anew.
--
-- ARGV     1 the queue  2 what is wrong with them, after 'has'
-- Returns  1 if there were any
-- include: keys

if call('EXISTS', SETTINGS .. ARGV[1]) == 0 then
  return 0
end
move_aside(SETTINGS .. ARGV[1], 'has ' .. ARGV[2])
return 1
