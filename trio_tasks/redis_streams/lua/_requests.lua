-- Requests to cancel a job that runs. Mostly there is none in the whole queue: that is asked once.
local requests

local function has_requests()
  requests = requests or call('HLEN', CANCELS)
  return requests > 0
end

-- The reason why somebody wants the job cancelled, or false.
local function cancel_request(id) return has_requests() and call('HGET', CANCELS, id) end
