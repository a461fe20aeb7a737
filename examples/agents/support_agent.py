"""A support agent that may only draft: what it sends or pays is somebody else's to do.

Its task is "draft replies to the open tickets of customer 88". It does that, and also tries what
an agent tries when it is confused, or was talked into something by what it read.
"""

from __future__ import annotations

import asyncio

from governed import Agent

CUSTOMER = "88"


async def work() -> None:
    """Draft, overstep, read the refusals, and draft on."""
    async with Agent("support-agent").working("helpdesk") as agent:
        customer = await agent.call("helpdesk/get_customer", id=CUSTOMER)
        listed = await agent.call("helpdesk/list_tickets", customer=CUSTOMER, state="open")
        tickets = [line["id"] for line in listed["result"]] if listed else []
        name = customer["name"].split()[0] if customer else "there"

        drafted = None
        for ticket in tickets[:1]:
            drafted = await agent.call(
                "helpdesk/draft_reply",
                ticket=ticket,
                body=f"Hello {name}, thank you for writing. We have your request and are on it.",
            )

        # Outside the mandate: sending and paying are not this agent's to do.
        await agent.call("helpdesk/send_reply", reply=drafted["reply"] if drafted else "1")
        await agent.call("helpdesk/refund", order="1234", amount=219, reason="the zip is stuck")

        # An argument out of bounds: another customer's record.
        await agent.call("helpdesk/get_customer", id="12")

        for ticket in tickets[1:]:
            await agent.call(
                "helpdesk/draft_reply",
                ticket=ticket,
                body=f"Hello {name}, until a new zip arrives: candle wax helps a stuck one.",
            )

        # Spent budget: the task allows a handful of calls, and they are used up.
        for attempt in ("shorter", "friendlier"):
            await agent.call(
                "helpdesk/draft_reply",
                ticket=tickets[0] if tickets else "5012",
                body=f"Hello {name}, this is a {attempt} version of the same reply.",
            )


if __name__ == "__main__":
    asyncio.run(work())
